//! How much of the authorization server anybody may use.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use http::request::Parts;
use mcp_gateway_core::context::McpContext;
use mcp_gateway_core::contract::{Budget, LimitKey, Limited};
use mcp_gateway_core::record::Subject;
use url::Url;

use super::client::hex_hash;
use super::grant::of_subject;
use super::{DeviceOptions, Inner, LoggedIn, ServerLimits};

const MINUTE: Duration = Duration::from_secs(60);

impl Inner {
    /// Takes from the budget of the address, where one is known.
    pub(crate) async fn limit_address(&self, head: &Parts, registration: bool) -> Result<(), Limited> {
        let Some(address) = McpContext::of(&head.extensions).and_then(McpContext::address) else { return Ok(()) };
        let id = network(*address).to_string();
        let (scope, limit) = if registration {
            ("oauth-register", self.options.registrations_per_minute)
        } else {
            ("oauth-address", self.options.requests_per_minute)
        };
        self.take(&[(scope, id, limit)]).await
    }

    /// Takes from the budget of all strangers together, for what anybody can have kept here.
    pub(crate) async fn limit_unknown(&self, scope: &'static str) -> Result<(), Limited> {
        self.take(&[(scope, String::new(), self.options.registrations_total_per_minute)]).await
    }

    /// Takes from the budget of a client with whoever's rights are given: one that asks without end leaves the person's
    /// others theirs.
    pub(crate) async fn limit_subject(&self, subject: &Subject, client_id: &str) -> Result<(), Limited> {
        let id = hex_hash(&format!("{} {client_id}", hex_hash(&of_subject(subject))));
        self.take(&[("oauth-account", id, self.options.requests_per_minute)]).await
    }

    /// Takes from the budgets of a person and of a host for one document. That of a host is wider: no one person uses it
    /// up for everybody.
    pub(crate) async fn limit_document(&self, url: &str, who: &LoggedIn) -> Result<(), Limited> {
        let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
        let limit = self.options.documents_per_minute;
        let person = hex_hash(&of_subject(&who.subject));
        let of_host = limit.saturating_mul(ServerLimits::PEOPLE_AT_A_HOST);
        self.take(&[("oauth-document-person", person, limit), ("oauth-document-host", hex_hash(&host), of_host)]).await
    }

    /// Takes from the budget of a host for the documents of its clients that are fetched at the token endpoint: apart from
    /// that of people who log in, since anybody can name a client.
    pub(crate) async fn limit_refetch(&self, url: &str) -> Result<(), Limited> {
        let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
        let limit = self.options.documents_per_minute.saturating_mul(ServerLimits::PEOPLE_AT_A_HOST);
        self.take(&[("oauth-document-token", hex_hash(&host), limit)]).await
    }

    /// Takes from the budget of a client for its keys: whatever host it says that they are at, no other client comes short.
    pub(crate) async fn limit_keys(&self, client_id: &str) -> Result<(), Limited> {
        self.take(&[("oauth-client-keys", hex_hash(client_id), self.options.documents_per_minute)]).await
    }

    /// Takes from the budgets of the address and of all addresses together for the codes of devices, or from neither: no
    /// one address uses up everybody's.
    pub(crate) async fn limit_devices(&self, head: &Parts, options: &DeviceOptions) -> Result<(), Limited> {
        let mut budgets = vec![("oauth-devices-all", String::new(), options.requests_total_per_minute)];
        if let Some(address) = McpContext::of(&head.extensions).and_then(McpContext::address) {
            budgets.push(("oauth-devices-address", network(*address).to_string(), options.requests_per_minute));
        }
        self.take(&budgets).await
    }

    /// Takes from the budgets of a person and of the address for a user code that is entered (RFC 8628 §5.1).
    pub(crate) async fn limit_tries(
        &self,
        head: &Parts,
        subject: &Subject,
        options: &DeviceOptions,
    ) -> Result<(), Limited> {
        let account = hex_hash(&of_subject(subject));
        // A budget is refilled while it is used: only with one back after each life are there never more in one.
        let life = options.life.saturating_mul(options.tries_per_account);
        let mut budgets = vec![budget("oauth-device-account", account, options.tries_per_account, life)];
        if let Some(address) = McpContext::of(&head.extensions).and_then(McpContext::address) {
            let (scope, network) = ("oauth-device-address", network(*address).to_string());
            budgets.push(budget(scope, network, options.tries_per_address, options.life));
        }
        self.take_from(&budgets).await
    }

    async fn take(&self, budgets: &[(&'static str, String, u32)]) -> Result<(), Limited> {
        let of = |(scope, id, limit): &(&'static str, String, u32)| budget(scope, id.clone(), *limit, MINUTE);
        self.take_from(&budgets.iter().map(of).collect::<Vec<_>>()).await
    }

    /// These budgets are small, and nothing here is on the way of a call: a limiter that has to ask is waited for.
    async fn take_from(&self, budgets: &[Budget<'_>]) -> Result<(), Limited> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        limiter.check(budgets).await.map(drop)
    }
}

fn budget(scope: &'static str, id: String, limit: u32, period: Duration) -> Budget<'static> {
    Budget { key: LimitKey { scope, id: id.into() }, cost: 1, limit, period }
}

/// Who has one IPv6 address has 2^64 of them: their network is what is counted.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        IpAddr::V4(address) => IpAddr::V4(address),
    }
}
