//! One boot of the emulated AMD host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::cache::Key;
use crate::emulator::Emulator;
use crate::proc::{self, Cancel};
use crate::{Error, Result};

/// The processor. The emulator's own seed makes RDRAND's numbers the same in each run;
/// without them a guest's kernel would wait for seconds until it has seen enough chance.
/// What the emulator lacks is off too, or it would warn once a CPU.
const CPU: &str = "EPYC,svm=on,npt=on,pause-filter=on,pfthreshold=on,rdseed=off,\
    sha-ni=off,fxsr-opt=off,misalignsse=off,3dnowprefetch=off,osvw=off,topoext=off,\
    nrip-save=off,xsavec=off";

/// The host kernel's command line. With the filter's threshold at its default
/// of 128 cycles, the gap between two turns of a vCPU would reset the count,
/// and directed yield would almost never fire. The TSC runs at 1 GHz, so a jiffy's
/// loops are known: each CPU would measure them for some 50 ms, while another waits.
const CMDLINE: &str = "console=ttyS0 nokaslr tsc=reliable lpj=4000000 panic=-1 \
    kvm_amd.pause_filter_thresh=65000 kvm_amd.pause_filter_count=200 \
    kvm_amd.pause_filter_count_max=200";

/// An instruction takes 2^SHIFT virtual ns.
const SHIFT: u32 = 0;

/// Exit status by which our emulator tells that its clock reached the limit.
const LIMIT_REACHED: i32 = 3;
/// The same, that it has saved the machine.
const SAVED: i32 = 4;
/// The job's text is padded to a multiple of this, so that a saved host finds another
/// job of the size that its kernel has seen at boot.
const JOB_BYTES: usize = 32 << 10;

/// A run's files: what the host's kernel printed, what the host gave, what the emulator said.
pub(crate) const CONSOLE: &str = "console";
pub(crate) const RESULT: &str = "result";
const EMULATOR_LOG: &str = "emulator";

/// What the emulated host is made of.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The emulator that runs it.
    pub emulator: Emulator,
    /// The host kernel's bzImage.
    pub kernel: PathBuf,
    /// The host's initial ram disk.
    pub initrd: PathBuf,
    /// Physical CPUs of the emulated host.
    pub pcpus: u32,
    /// Its memory in MiB.
    pub mem_mib: u32,
    /// Mean length of a round of parallel time in ns.
    pub round_ns: u64,
    /// What varies the rounds' lengths.
    pub seed: u64,
    /// Virtual time in seconds at which the host is given up.
    pub limit_s: u64,
}

/// Where a host begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start<'a> {
    /// At power-on, and it goes on to its end.
    Boot,
    /// At power-on. It ends when it asks to be saved, to this file.
    Save(&'a Path),
    /// Where another one of the same kind was saved.
    Saved(&'a Path),
}

/// What one run left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// All that the host's kernel and the cell printed.
    pub console: Vec<u8>,
    /// The line of JSON that the cell gave; empty of a host that was saved.
    pub result: String,
}

/// What kernels, their lock and memory checkers and KUnit print when something is wrong.
const COMPLAINTS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "KASAN:",
    "Oops",
    "INFO: possible",
    "INFO: task",
    "rcu: INFO",
    "possible recursive locking",
    "soft lockup",
    "not ok ",
];

/// The first line of a console by which a kernel says that something is wrong.
pub fn complaint(console: &str) -> Option<&str> {
    let is_one = |line: &&str| COMPLAINTS.iter().any(|c| line.contains(c));
    console.lines().find(is_one)
}

impl Machine {
    /// Runs the host with `job`, JSON text, and waits until it powers off or is saved.
    ///
    /// `work` is an empty folder for the run's files; the caller removes it.
    pub fn run(&self, job: &str, start: Start, work: &Path, cancel: &Cancel) -> Result<Output> {
        let job_file = work.join("job.json");
        fs::write(&job_file, padded(job)).map_err(Error::io("write", &job_file))?;
        let console = work.join(CONSOLE);
        let result = work.join(RESULT);
        let mut command = self.command(&job_file, &console, &result);
        command.args(start_options(start));
        let status = self.emulate(command, work, cancel)?;
        let text = fs::read_to_string(&result).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with('{'));
        let is_saved = status.code() == Some(SAVED);
        if line.is_none() && !is_saved {
            return Err(no_result(status, work));
        }
        Ok(Output {
            console: fs::read(&console).map_err(Error::io("read", &console))?,
            result: line.unwrap_or_default().to_string(),
        })
    }

    /// Runs the emulator until its machine ends; what it says itself goes to a file of `work`.
    pub(crate) fn emulate(
        &self,
        mut command: Command,
        work: &Path,
        cancel: &Cancel,
    ) -> Result<ExitStatus> {
        let log = work.join(EMULATOR_LOG);
        let out = fs::File::create(&log).map_err(Error::io("create", &log))?;
        let err = out.try_clone().map_err(Error::io("share", &log))?;
        command.stdout(out).stderr(err);
        let status = proc::run(command, cancel, || {})?;
        if status.code() == Some(LIMIT_REACHED) {
            return Err(Error::TimeLimit {
                limit_s: self.limit_s,
                console: work.join(CONSOLE),
            });
        }
        Ok(status)
    }

    fn command(&self, job: &Path, console: &Path, result: &Path) -> Command {
        let mut qemu = self.hardware(console, result);
        qemu.args([
            "-fw_cfg",
            &format!("name=opt/vmfirst.cell,file={}", job.display()),
        ])
        .arg("-kernel")
        .arg(&self.kernel)
        .arg("-initrd")
        .arg(&self.initrd)
        .args(["-append", CMDLINE]);
        qemu
    }

    /// The emulator with all that is the same whatever is booted: clock, processors, memory
    /// and two serial lines.
    pub(crate) fn hardware(&self, console: &Path, result: &Path) -> Command {
        let mut qemu = proc::command(&self.emulator.program().to_string_lossy());
        let file = |path: &Path| format!("file:{}", path.display());
        let icount = format!(
            "shift={SHIFT},sleep=off,round={},seed={},limit={}",
            self.round_ns,
            self.seed,
            self.limit_s * 1_000_000_000
        );
        qemu.arg("-L")
            .arg(&self.emulator.dir)
            .args([
                "-accel",
                "tcg,thread=single,tb-size=512",
                "-icount",
                &icount,
            ])
            .args(["-rtc", "base=2026-01-01,clock=vm", "-seed", "1"])
            .args(["-M", "pc", "-cpu", CPU, "-smp", &self.pcpus.to_string()])
            .args(["-m", &self.mem_mib.to_string()])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-serial", &file(console), "-serial", &file(result)]);
        qemu
    }
}

/// Why a host that ended gave nothing: by its own last words, or by the emulator's.
pub(crate) fn no_result(status: ExitStatus, work: &Path) -> Error {
    let console = work.join(CONSOLE);
    let last_line = match status.success() {
        true => proc::last_line(&console),
        false => proc::last_line(&work.join(EMULATOR_LOG)),
    };
    Error::NoResult {
        status,
        last_line,
        console,
    }
}

/// Instructions that a CPU executes in a virtual ns.
pub fn instructions_per_ns() -> f64 {
    0.5_f64.powi(SHIFT as i32)
}

/// What tells this machine from one with another processor, command line or devices. The
/// files and numbers that vary from cell to cell have names of their own in the results.
pub fn version() -> String {
    format!("machine-{}", description().short())
}

/// All words by which a machine is started.
fn description() -> Key {
    let file = PathBuf::new;
    let machine = Machine {
        emulator: Emulator { dir: file() },
        kernel: file(),
        initrd: file(),
        pcpus: 1,
        mem_mib: 1,
        round_ns: 1,
        seed: 1,
        limit_s: 1,
    };
    let command = machine.command(&file(), &file(), &file());
    let words = command.get_args().map(|word| word.to_string_lossy());
    words.fold(Key::new(), |key, word| key.text("word", &word))
}

/// The file that a host reads to be saved is always there: it has a number of its own.
fn start_options(start: Start) -> Vec<String> {
    let save = "name=opt/vmfirst.save,string=.";
    let mut options = vec!["-fw_cfg".to_string()];
    match start {
        Start::Boot => options.push(save.into()),
        Start::Save(state) => options.push(format!("{save},save={}", state.display())),
        Start::Saved(state) => {
            options.push(save.into());
            options.push("-incoming".into());
            options.push(format!("exec:cat '{}'", state.display()));
        }
    }
    options
}

fn padded(job: &str) -> String {
    let size = job.len().next_multiple_of(JOB_BYTES);
    job.to_string() + &" ".repeat(size - job.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_found() {
        let good = "[0.1] # Totals: pass:3\n[0.2] ok 1 sched\n";
        assert_eq!(complaint(good), None);
        let bad = "[0.3] BUG: KASAN: slab-use-after-free in x\n";
        assert_eq!(complaint(&format!("{good}{bad}")), Some(bad.trim()));
    }

    #[test]
    fn processor_and_command_line_are_in_the_version() {
        let description = description();
        for words in [CPU, CMDLINE, "shift=0,sleep=off", "base=2026-01-01"] {
            assert!(description.inputs().contains(words), "{words}");
        }
        assert!(version().starts_with("machine-"));
        assert_eq!(instructions_per_ns(), 1.0);
    }

    #[test]
    fn jobs_are_of_one_size() {
        assert_eq!(padded("{}").len(), JOB_BYTES);
        assert_eq!(padded(&"x".repeat(JOB_BYTES)).len(), JOB_BYTES);
        assert_eq!(padded("{\"a\":1}").trim(), "{\"a\":1}");
    }
}
