//! `vmfirst view` mounted on this machine, in a mount namespace of the test's own: a store of
//! files as systemd's keeps the mount while the program is killed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use sendfd::RecvWithFd;

/// One test at a time: what one starts must not have the other's files.
static ONE: Mutex<()> = Mutex::new(());

/// What systemd is to the program.
struct Manager<'a> {
    folder: &'a Path,
    socket: UnixDatagram,
    kept: Vec<(String, OwnedFd)>,
}

impl<'a> Manager<'a> {
    fn new(folder: &'a Path) -> Self {
        Self {
            folder,
            socket: UnixDatagram::bind(folder.join("notify")).unwrap(),
            kept: Vec::new(),
        }
    }

    /// Starts the program, with what is kept, and waits until it is ready.
    fn start(&mut self) -> Child {
        let mut command = Command::new("sh");
        command
            .args(["-c", "LISTEN_PID=$$ exec \"$0\" view \"$1\""])
            .arg(env!("CARGO_BIN_EXE_vmfirst"))
            .arg(self.folder.join("view"))
            .env("NOTIFY_SOCKET", self.folder.join("notify"));
        if !self.kept.is_empty() {
            let names: Vec<_> = self.kept.iter().map(|(name, _)| name.as_str()).collect();
            command
                .env("LISTEN_FDS", names.len().to_string())
                .env("LISTEN_FDNAMES", names.join(":"));
            let files: Vec<RawFd> = self.kept.iter().map(|(_, file)| file.as_raw_fd()).collect();
            // SAFETY: dup2 may be called after a fork; the numbers are open until after it, and
            // are higher than those that they get.
            unsafe {
                command.pre_exec(move || {
                    for (file, number) in files.iter().zip(3..) {
                        if libc::dup2(*file, number) != number {
                            return Err(std::io::Error::last_os_error());
                        }
                    }
                    Ok(())
                });
            }
        }
        let child = command.spawn().unwrap();
        while !self.is_ready() {}
        child
    }

    /// Takes a message, and what is to be kept or closed; whether the program is ready.
    fn is_ready(&mut self) -> bool {
        let (mut bytes, mut files) = ([0; 256], [0 as RawFd; 1]);
        let (length, count) = self.socket.recv_with_fd(&mut bytes, &mut files).unwrap();
        let text = std::str::from_utf8(&bytes[..length]).unwrap();
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
        if text.contains("FDSTOREREMOVE=1") {
            self.kept.retain(|(kept, _)| Some(kept.as_str()) != name);
        }
        if count == 1 {
            // Numbers that the program's own start with are in nobody's way up there.
            // SAFETY: the kernel has just opened it for this process.
            let kept = unsafe { OwnedFd::from_raw_fd(files[0]) };
            let kept = rustix::io::fcntl_dupfd_cloexec(&kept, 100).unwrap();
            self.kept.push((name.unwrap().to_string(), kept));
        }
        text.starts_with("READY=1")
    }
}

/// A mount namespace of this thread's own with cgroup v2, if this machine lets it; what it
/// starts is in there, too.
fn own_namespace(folder: &Path) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        return Err("it takes root and /dev/fuse".into());
    }
    // SAFETY: this thread alone gets a namespace and a root of its own.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(std::io::Error::last_os_error().to_string());
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(|error| error.to_string())?;
    let groups = folder.join("groups");
    fs::create_dir(&groups).unwrap();
    rustix::mount::mount("none", &groups, "cgroup2", MountFlags::empty(), None)
        .map_err(|error| format!("no cgroup v2: {error}"))
}

/// A folder with such a tree, where the machine allows it.
fn own_folder() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    match own_namespace(folder.path()) {
        Ok(()) => Some(folder),
        Err(why) => {
            eprintln!("skipped: {why}");
            None
        }
    }
}

/// A process in a group of its own that reads until it is told to stop: `good` and `bad` reads.
const READER: &str = r#"
echo $$ > "$0/cgroup.procs"
good=0; bad=0
until [ -e "$1/stop" ]; do
    if read -r line < "$1/view/proc/uptime"; then good=$((good + 1)); else bad=$((bad + 1)); fi
done 2> /dev/null
echo "$good $bad"
"#;

#[test]
fn readers_live_on_when_the_program_is_killed() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(folder) = own_folder() else {
        return;
    };
    let folder = folder.path();
    let group = folder.join(format!("groups/vmfirst-test-view-{}", std::process::id()));
    fs::create_dir(&group).unwrap();
    let mut manager = Manager::new(folder);
    let mut program = manager.start();
    assert_eq!(manager.kept.len(), 1);

    let mut kept_open = File::open(folder.join("view/proc/meminfo")).unwrap();
    let reader = Command::new("sh")
        .args(["-c", READER])
        .args([&group, folder])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    for _ in 0..3 {
        thread::sleep(std::time::Duration::from_millis(200));
        program.kill().unwrap();
        program.wait().unwrap();
        program = manager.start();
        // It answers, also to who has had the file open since before.
        let mut text = String::new();
        kept_open.rewind().unwrap();
        kept_open.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("MemTotal:"), "{text}");
    }
    fs::write(folder.join("stop"), "").unwrap();
    let said = reader.wait_with_output().unwrap().stdout;
    let said = String::from_utf8(said).unwrap();
    let (good, bad) = said.trim().split_once(' ').unwrap();
    let (good, bad): (u32, u32) = (good.parse().unwrap(), bad.parse().unwrap());
    // What was being answered when it was killed, at most, fails.
    assert!(good > 0 && bad <= 3, "{said}");

    // Nobody keeps the mount any more: an error at once, and no wait.
    program.kill().unwrap();
    program.wait().unwrap();
    manager.kept.clear();
    let dead = fs::read(folder.join("view/proc/uptime")).unwrap_err();
    assert_eq!(dead.kind(), ErrorKind::NotConnected);
    // The next one mounts anew where the dead mount is.
    program = manager.start();
    fs::read(folder.join("view/proc/uptime")).unwrap();
    rustix::mount::unmount(folder.join("view"), UnmountFlags::DETACH).unwrap();
    program.wait().unwrap();
    fs::remove_dir(&group).unwrap();
    rustix::mount::unmount(folder.join("groups"), UnmountFlags::DETACH).unwrap();
}

/// Many at once, each in its own group, and one that opens all it can: everybody has its own.
#[test]
fn each_reader_has_its_own_groups_figures() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(folder) = own_folder() else {
        return;
    };
    let folder = folder.path();
    let mut manager = Manager::new(folder);
    let mut program = manager.start();
    let hostile: Arc<AtomicBool> = Arc::default();
    let stop = hostile.clone();
    let view = folder.join("view");
    let opens = thread::spawn({
        let view = view.clone();
        move || {
            let mut files = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let Ok(mut file) = File::open(view.join("proc/cpuinfo")) else {
                    break;
                };
                let _ = file.read(&mut [0; 3]);
                files.push(file);
                files.truncate(500);
            }
        }
    });
    for number in 0..8 {
        let name = format!("groups/vmfirst-test-view-{}-{number}", std::process::id());
        let group = folder.join(name);
        fs::create_dir(&group).unwrap();
        let script =
            "echo $$ > \"$0/cgroup.procs\"; cat \"$1/proc/pressure/cpu\" \"$0/cpu.pressure\"
            cat \"$1/proc/loadavg\"; cat \"$0/cgroup.threads\" | wc -l";
        let output = Command::new("sh")
            .args(["-c", script])
            .args([&group, &view])
            .output();
        let said = String::from_utf8(output.unwrap().stdout).unwrap();
        // A group that was made just now has waited for next to nothing, as the host has not.
        let totals = said.lines().filter_map(|line| line.strip_prefix("some "));
        let totals: Vec<u64> = totals
            .map(|line| line.split_once("total=").unwrap().1.parse().unwrap())
            .collect();
        assert!(
            totals.len() == 2 && totals[0] <= totals[1] && totals[1] < 60_000_000,
            "{said}"
        );
        let load = said.lines().find(|line| line.ends_with(" 0")).unwrap();
        let tasks = load.split(['/', ' ']).nth(4).unwrap();
        assert!(["1", "2", "3"].contains(&tasks), "{said}");
        fs::remove_dir(&group).unwrap();
    }
    hostile.store(true, Ordering::Relaxed);
    opens.join().unwrap();
    rustix::mount::unmount(&view, UnmountFlags::DETACH).unwrap();
    program.wait().unwrap();
    rustix::mount::unmount(folder.join("groups"), UnmountFlags::DETACH).unwrap();
}

/// Waits in poll(2) for a trigger on a file, until it has POLLPRI; says before what poll(2) has
/// at once. An error is POLLERR, or what open, write and poll say.
const POLLER: &str = r#"
use Fcntl;
my ($file, $wish) = @ARGV;
$| = 1;
sysopen(my $f, $file, O_RDWR) or die "open: $!";
my $poll = sub { my $p = pack("iss", fileno $f, 2, 0); syscall(7, $p, 1, $_[0]) >= 0 or die "poll: $!"; (unpack("iss", $p))[2] };
print "bare ", $poll->(0), "\n";
syswrite($f, "$wish\0") or die "write: $!";
print "again ", defined syswrite($f, $wish) ? "yes" : $!{EBUSY} ? "busy" : $!, "\n";
print "now ", $poll->(0), "\n";
# Who is just asking when the program is killed has an error, once, as a reader has.
my $later = $poll->(-1);
$later = $poll->(-1) if $later == 8;
print "later $later\n";
"#;

/// A process that never ends by itself, also where the test fails.
struct Hog(std::process::Child);

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// POLLPRI, and POLLPRI with POLLERR, in poll(2).
const HAPPENED: &str = "2";
const NO_TRIGGER: &str = "10";

/// The same program, for the same group: at the group's own file, and through the view.
#[test]
fn who_polls_pressure_is_told_when_the_groups_own_file_tells() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(folder) = own_folder() else {
        return;
    };
    let folder = folder.path();
    let mut manager = Manager::new(folder);
    let mut program = manager.start();
    let group = folder.join(format!("groups/vmfirst-test-view-{}", std::process::id()));
    fs::create_dir(&group).unwrap();
    let start = |script: &str, file: &Path, wish: &str| {
        Command::new("sh")
            .args(["-c", "echo $$ > $0/cgroup.procs; exec \"$@\""])
            .arg(&group)
            .args(["perl", "-e", script])
            .args([file, Path::new(wish)])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let own = group.join("cpu.pressure");
    let shown = folder.join("view/proc/pressure/cpu");
    let wish = "some 500000 2000000";
    let mut pollers = [&own, &shown].map(|file| {
        let mut poller = start(POLLER, file, wish);
        let mut lines = BufReader::new(poller.stdout.take().unwrap()).lines();
        let said: Vec<_> = lines.by_ref().take(3).map(Result::unwrap).collect();
        (poller, lines, said)
    });
    // Nobody in the group has wanted a CPU but to start; without a trigger it is an error.
    assert_eq!(pollers[0].2, ["bare 10", "again busy", "now 0"]);
    assert_eq!(pollers[1].2, pollers[0].2);
    // Who waits is one more of those that systemd keeps: then the program is killed.
    while manager.kept.len() < 2 {
        manager.is_ready();
    }
    program.kill().unwrap();
    program.wait().unwrap();
    program = manager.start();

    let load: Vec<_> = (0..8)
        .map(|_| Hog(start("1 while 1", &own, wish)))
        .collect();
    for (poller, lines, _) in &mut pollers {
        let later = lines.next().unwrap().unwrap();
        assert_eq!(later, format!("later {HAPPENED}"));
        assert!(poller.wait().unwrap().success());
    }
    // Its end is told, too.
    while manager.kept.len() > 1 {
        manager.is_ready();
    }
    let wrong = start(POLLER, &shown, "some 1 500000000").wait_with_output();
    let wrong = wrong.unwrap();
    let said = String::from_utf8(wrong.stdout).unwrap();
    assert_eq!(
        (said.trim(), wrong.status.success()),
        (&*format!("bare {NO_TRIGGER}"), false)
    );
    drop(load);
    while fs::remove_dir(&group).is_err_and(|error| error.kind() == ErrorKind::ResourceBusy) {}
    rustix::mount::unmount(folder.join("view"), UnmountFlags::DETACH).unwrap();
    program.wait().unwrap();
    rustix::mount::unmount(folder.join("groups"), UnmountFlags::DETACH).unwrap();
}
