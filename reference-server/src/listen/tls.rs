//! TLS with certificates that may change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The files of a listener's TLS.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Certificate and chain, PEM.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// Authorities of client certificates, PEM; when set, clients must have one.
    pub client_ca: Option<PathBuf>,
}

/// The files cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {path}: {problem}", path = .path.display())]
pub struct TlsError {
    setting: &'static str,
    path: PathBuf,
    problem: String,
}

/// The current TLS configuration. A handle: clones share it.
#[derive(Clone)]
pub struct TlsReloader {
    current: Arc<ArcSwap<ServerConfig>>,
    files: TlsFiles,
}

impl TlsReloader {
    /// How often the files are looked at.
    pub const INTERVAL: Duration = Duration::from_secs(2);

    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] names the setting, the file and what is wrong.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let current = Arc::new(ArcSwap::from_pointee(read(&files)?));
        Ok(Self { current, files })
    }

    /// For connections that begin now.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Reads the files again whenever they change, for ever. What cannot be used is logged, and the last good
    /// certificate goes on being served.
    pub async fn follow(self) {
        let mut seen = stamps(&self.files);
        loop {
            tokio::time::sleep(Self::INTERVAL).await;
            let now = stamps(&self.files);
            if now == seen {
                continue;
            }
            match read(&self.files) {
                Ok(config) => {
                    self.current.store(Arc::new(config));
                    tracing::info!(cert = %self.files.cert.display(), "the TLS certificate was read again");
                }
                // Certificate and key are rarely replaced in one step: the next look may find both.
                Err(error) => tracing::error!(%error, "the new TLS files cannot be used; the old ones stay in use"),
            }
            seen = now;
        }
    }
}

impl std::fmt::Debug for TlsReloader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsReloader").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What changes when a file does. Through links, so that mounted secrets are noticed.
fn stamps(files: &TlsFiles) -> Vec<Option<(SystemTime, u64)>> {
    [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()]
        .into_iter()
        .flatten()
        .map(|path| std::fs::metadata(path).ok().and_then(|meta| Some((meta.modified().ok()?, meta.len()))))
        .collect()
}

fn read(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = certificates("tls.cert", &files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| problem("tls.key", &files.key, format!("no private key in PEM could be read ({error})")))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| problem("tls.cert", &files.cert, error.to_string()))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates("tls.client_ca", path)? {
                roots.add(authority).map_err(|error| problem("tls.client_ca", path, error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| problem("tls.client_ca", path, error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        problem("tls.cert", &files.cert, format!("certificate and key do not belong together ({error})"))
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| problem(setting, path, format!("no certificates in PEM could be read ({error})")))?;
    if certificates.is_empty() {
        return Err(problem(setting, path, "there is no certificate in it".to_owned()));
    }
    Ok(certificates)
}

fn problem(setting: &'static str, path: &Path, problem: String) -> TlsError {
    TlsError { setting, path: path.to_owned(), problem }
}
