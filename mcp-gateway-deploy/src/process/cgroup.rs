//! Limits of children by control groups, version 2 (`Documentation/admin-guide/cgroup-v2.rst` of Linux).
//!
//! Each child gets a group of its own, with all that it starts: memory, processor time and processes are limited for them
//! together, and none of them outlives the child by leaving its process group.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::getxattr;
use rustix::process::Pid;

/// Whether children get control groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Cgroup {
    /// No: what cannot be limited otherwise is not limited.
    #[default]
    Off,
    /// Below this process's own group if that is possible. The process itself then moves to a group below it as well: only
    /// groups without processes may hand limits on.
    Auto,
    /// Below this folder of the cgroup file system, which is for nothing else.
    At(PathBuf),
}

/// Where children's groups are made.
#[derive(Debug, Clone)]
pub(super) struct Cgroups {
    dir: PathBuf,
    cpu: bool,
}

/// What the processes of a child may use together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct GroupLimits {
    /// Bytes.
    pub(super) memory: Option<u64>,
    /// Thousandths of a core.
    pub(super) cpu_millis: Option<u32>,
    /// Processes and threads.
    pub(super) pids: u64,
}

/// The name of the folder with the children's groups.
const CHILDREN: &str = "mcp-gateway-children";
/// The name of the group that this process moves to.
const SELF: &str = "mcp-gateway";
/// Over which time processor time is shared out, µs; the kernel's own default.
const PERIOD: u64 = 100_000;
/// How long the processes of a group may take to be gone once they are killed.
const REMOVAL: Duration = Duration::from_secs(5);

impl Cgroups {
    /// Makes the place for children's groups; `None` when none are wanted.
    ///
    /// # Errors
    /// When that is not possible; the text says why.
    pub(super) fn open(wanted: &Cgroup) -> io::Result<Option<Self>> {
        match wanted {
            Cgroup::Off => Ok(None),
            Cgroup::At(dir) => Self::below(dir).map(Some),
            Cgroup::Auto => {
                let mounts = fs::read_to_string("/proc/self/mountinfo")?;
                let groups = fs::read_to_string("/proc/self/cgroup")?;
                let own =
                    own_group(&mounts, &groups).ok_or_else(|| io::Error::other("no cgroup2 file system is mounted"))?;
                // Nothing is changed for a place that turns out not to do.
                has_cpu(&own)?;
                check_delegated(&own)?;
                make_leaf(&own)?;
                Self::below(&own).map(Some)
            }
        }
    }

    fn below(base: &Path) -> io::Result<Self> {
        let cpu = enable(base)?;
        let dir = base.join(CHILDREN);
        make_dir(&dir)?;
        enable(&dir)?;
        // What a gateway left behind that was killed. One with processes stays: another gateway may be here.
        for entry in fs::read_dir(&dir)?.flatten() {
            let _ = fs::remove_dir(entry.path());
        }
        Ok(Self { dir, cpu })
    }

    /// Where the groups are, for the log.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes a group.
    pub(super) fn make(&self, name: &str, limits: &GroupLimits) -> io::Result<Group> {
        let group = Group(self.dir.join(name));
        make_dir(&group.0)?;
        if let Some(bytes) = limits.memory {
            group.set("memory.max", bytes)?;
            // A kernel that does not account for swap has no such file, and none of it to limit.
            if group.0.join("memory.swap.max").exists() {
                group.set("memory.swap.max", 0)?;
            }
            // A server that has lost a part of itself is of no use.
            group.set("memory.oom.group", 1)?;
        }
        group.set("pids.max", limits.pids)?;
        if let Some(millis) = limits.cpu_millis.filter(|_| self.cpu) {
            let quota = u64::from(millis) * PERIOD / 1_000;
            // The kernel takes no quota below a millisecond.
            group.set("cpu.max", format_args!("{} {PERIOD}", quota.max(1_000)))?;
        }
        Ok(group)
    }
}

/// The group of one child. When it is dropped its processes are killed, and it is removed.
#[derive(Debug)]
pub(super) struct Group(PathBuf);

impl Group {
    /// Takes a process in, with what it starts from now on.
    pub(super) fn add(&self, pid: Pid) -> io::Result<()> {
        self.set("cgroup.procs", pid.as_raw_nonzero())
    }

    fn set(&self, file: &str, value: impl std::fmt::Display) -> io::Result<()> {
        write(&self.0.join(file), &value.to_string())
    }

    fn kill(&self) {
        // From Linux 5.14; the process group is killed in any case.
        let _ = self.set("cgroup.kill", 1);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        if fs::remove_dir(&self.0).is_ok() {
            return;
        }
        let dir = std::mem::take(&mut self.0);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let deadline = tokio::time::Instant::now() + REMOVAL;
            while let Err(error) = fs::remove_dir(&dir) {
                if tokio::time::Instant::now() > deadline {
                    tracing::warn!(dir = %dir.display(), %error, "a child's cgroup cannot be removed");
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }
}

/// This process's group as a folder: the mount of the cgroup2 file system, and the path below it.
fn own_group(mounts: &str, groups: &str) -> Option<PathBuf> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // `ID PARENT DEV ROOT MOUNT-POINT OPTIONS … - TYPE SOURCE OPTIONS`
    let mount = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| place.split(' ').nth(4))?
    })?;
    Some(Path::new(mount).join(path))
}

/// Moves this process below its own group, so that the group can hand limits on. The root of all groups needs no such thing.
fn make_leaf(own: &Path) -> io::Result<()> {
    if own.file_name().is_some_and(|name| name == SELF) || !own.join("cgroup.type").exists() {
        return Ok(());
    }
    let mine = std::process::id().to_string();
    if fs::read_to_string(own.join("cgroup.procs"))?.lines().any(|pid| pid != mine) {
        return Err(io::Error::other(format!("other processes are in {}, too", own.display())));
    }
    let leaf = own.join(SELF);
    make_dir(&leaf)?;
    write(&leaf.join("cgroup.procs"), &mine)
}

/// systemd changes groups as it likes unless it has said that they are somebody else's (`Delegate=`), by an attribute.
fn check_delegated(own: &Path) -> io::Result<()> {
    let managed = |unit: &std::ffi::OsStr| {
        unit.to_str().is_some_and(|unit| unit.ends_with(".service") || unit.ends_with(".scope"))
    };
    if !own.file_name().is_some_and(managed) {
        return Ok(());
    }
    let has = |name: &str| getxattr(own, name, &mut [0_u8; 8]).is_ok();
    if has("user.delegate") || has("trusted.delegate") {
        return Ok(());
    }
    Err(io::Error::other(format!("systemd has not delegated {}: set Delegate= in its unit", own.display())))
}

/// Checks that a group may limit memory and processes. Returns whether processor time, too.
fn has_cpu(dir: &Path) -> io::Result<bool> {
    let path = dir.join("cgroup.controllers");
    let controllers = fs::read_to_string(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let has = |name| controllers.split_whitespace().any(|one| one == name);
    for needed in ["memory", "pids"] {
        if !has(needed) {
            return Err(io::Error::other(format!("{} lists no {needed}", path.display())));
        }
    }
    Ok(has("cpu"))
}

/// Hands the limits on to the groups below. Returns whether processor time is among them.
fn enable(dir: &Path) -> io::Result<bool> {
    let cpu = has_cpu(dir)?;
    write(&dir.join("cgroup.subtree_control"), if cpu { "+memory +pids +cpu" } else { "+memory +pids" })?;
    Ok(cpu)
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(io::Error::new(error.kind(), format!("{}: {error}", dir.display())))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::write(path, value).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "25 1 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                          31 25 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:3 - cgroup2 cgroup2 rw\n";

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    /// A folder that looks like a group with these controllers.
    fn fake(controllers: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), controllers).unwrap();
        fs::create_dir(root.path().join(CHILDREN)).unwrap();
        fs::write(root.path().join(CHILDREN).join("cgroup.controllers"), controllers).unwrap();
        root
    }

    #[test]
    fn the_own_group_is_found_among_those_of_version_1() {
        let own = |groups| own_group(MOUNTS, groups);
        assert_eq!(
            own("4:memory:/a\n0::/system.slice/x.service\n"),
            Some("/sys/fs/cgroup/unified/system.slice/x.service".into())
        );
        assert_eq!(own("0::/\n"), Some("/sys/fs/cgroup/unified/".into()));
        assert_eq!(own("4:memory:/a\n"), None);
        assert_eq!(own_group("25 1 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n", "0::/\n"), None);
    }

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let root = fake("cpuset cpu io memory hugetlb pids");
        let groups = Cgroups::below(root.path()).unwrap();
        assert_eq!(read(&root.path().join("cgroup.subtree_control")), "+memory +pids +cpu");
        assert_eq!(read(&groups.dir.join("cgroup.subtree_control")), "+memory +pids +cpu");
        let limits = GroupLimits { memory: Some(64 << 20), cpu_millis: Some(250), pids: 33 };
        let group = groups.make("a", &limits).unwrap();
        for (file, value) in
            [("memory.max", "67108864"), ("memory.oom.group", "1"), ("pids.max", "33"), ("cpu.max", "25000 100000")]
        {
            assert_eq!(read(&group.0.join(file)), value, "{file}");
        }
        let group = groups.make("b", &GroupLimits { pids: 1, cpu_millis: Some(1), ..GroupLimits::default() }).unwrap();
        assert_eq!(read(&group.0.join("cpu.max")), "1000 100000");
        assert!(!group.0.join("memory.max").exists());
    }

    #[test]
    fn what_cannot_be_limited_is_said() {
        for (controllers, missing) in [("hugetlb", "memory"), ("memory cpu", "pids")] {
            let error = Cgroups::below(fake(controllers).path()).unwrap_err().to_string();
            assert!(error.contains(&format!("lists no {missing}")), "{error}");
        }
        let error = Cgroups::below(Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/cgroup.controllers"), "{error}");
        let without_cpu = Cgroups::below(fake("memory pids").path()).unwrap();
        assert!(!without_cpu.cpu);
    }

    #[test]
    fn what_systemd_keeps_for_itself_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let (service, slice) = (root.path().join("x.service"), root.path().join("x.slice"));
        for dir in [&service, &slice] {
            fs::create_dir(dir).unwrap();
        }
        assert!(check_delegated(&service).unwrap_err().to_string().contains("Delegate="));
        check_delegated(&slice).unwrap();
        if rustix::fs::setxattr(&service, "user.delegate", b"1", rustix::fs::XattrFlags::empty()).is_ok() {
            check_delegated(&service).unwrap();
        } else {
            eprintln!("SKIPPED: this file system has no attributes of users");
        }
    }

    #[test]
    fn a_process_moves_only_out_of_a_group_of_its_own() {
        let own = tempfile::tempdir().unwrap();
        // The root of all groups.
        make_leaf(own.path()).unwrap();
        assert!(!own.path().join(SELF).exists());
        fs::write(own.path().join("cgroup.type"), "domain\n").unwrap();
        fs::write(own.path().join("cgroup.procs"), format!("{}\n1\n", std::process::id())).unwrap();
        assert!(make_leaf(own.path()).unwrap_err().to_string().contains("other processes"));
        fs::write(own.path().join("cgroup.procs"), format!("{}\n", std::process::id())).unwrap();
        make_leaf(own.path()).unwrap();
        assert_eq!(read(&own.path().join(SELF).join("cgroup.procs")), std::process::id().to_string());
    }

    /// With the kernel's own files, as far as this machine has them: some have no memory and pids in version 2.
    #[tokio::test]
    async fn no_process_of_a_group_outlives_it() {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let Some(own) = own_group(&mounts, &groups) else {
            return eprintln!("SKIPPED: no cgroup2 file system is mounted");
        };
        let dir = own.join(format!("mcp-gateway-test-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&dir) {
            return eprintln!("SKIPPED: no groups can be made here: {}: {error}", dir.display());
        }
        let group = Group(dir.clone());
        // Its grandchild leaves the process group, as a daemon does.
        let mut child = tokio::process::Command::new("sh")
            .args(["-c", "read go; setsid sleep 1000 & wait"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        if let Err(error) = group.add(pid) {
            child.kill().await.unwrap();
            return eprintln!("SKIPPED: processes cannot be moved here: {error}");
        }
        tokio::io::AsyncWriteExt::write_all(&mut child.stdin.take().unwrap(), b"go\n").await.unwrap();
        let members = || fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines().count();
        while members() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(group);
        assert!(!child.wait().await.unwrap().success());
        let gone = async {
            while dir.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(REMOVAL, gone).await.expect("the group is removed");
    }
}
