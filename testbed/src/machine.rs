//! One boot of the emulated AMD host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::emulator::Emulator;
use crate::proc::{self, Cancel};
use crate::{Error, Result};

/// The processor. Anything random by nature is off: it would end determinism.
/// What the emulator lacks is off too, or it would warn once a CPU.
const CPU: &str = "EPYC,svm=on,npt=on,pause-filter=on,pfthreshold=on,rdrand=off,rdseed=off,\
    sha-ni=off,fxsr-opt=off,misalignsse=off,3dnowprefetch=off,osvw=off,topoext=off,\
    nrip-save=off,xsavec=off";

/// The host kernel's command line. With the filter's threshold at its default
/// of 128 cycles, the gap between two turns of a vCPU would reset the count,
/// and directed yield would almost never fire.
const CMDLINE: &str = "console=ttyS0 nokaslr tsc=reliable panic=-1 \
    kvm_amd.pause_filter_thresh=65000 kvm_amd.pause_filter_count=200 \
    kvm_amd.pause_filter_count_max=200";

/// Exit status by which our emulator tells that its clock reached the limit.
const LIMIT_REACHED: i32 = 3;

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

/// What one boot left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// All that the host's kernel and the cell printed.
    pub console: Vec<u8>,
    /// The line of JSON that the cell gave.
    pub result: String,
}

impl Machine {
    /// Boots the host with `spec`, the cell's JSON text, and waits until it powers off.
    ///
    /// `work` is an empty folder for the boot's files; the caller removes it.
    pub fn run(&self, spec: &str, work: &Path, cancel: &Cancel) -> Result<Output> {
        let spec_file = work.join("cell.json");
        fs::write(&spec_file, spec).map_err(Error::io("write", &spec_file))?;
        let console = work.join("console");
        let result = work.join("result");
        let log = work.join("emulator");
        let out = fs::File::create(&log).map_err(Error::io("create", &log))?;
        let err = out.try_clone().map_err(Error::io("share", &log))?;
        let mut command = self.command(&spec_file, &console, &result);
        command.stdout(out).stderr(err);

        let status = proc::run(command, cancel, || {})?;
        if status.code() == Some(LIMIT_REACHED) {
            return Err(Error::TimeLimit {
                limit_s: self.limit_s,
                console,
            });
        }
        let text = fs::read_to_string(&result).unwrap_or_default();
        let Some(line) = text.lines().find(|line| line.starts_with('{')) else {
            let said = if status.success() { &console } else { &log };
            return Err(Error::NoResult {
                status,
                last_line: proc::last_line(said),
                console,
            });
        };
        Ok(Output {
            console: fs::read(&console).map_err(Error::io("read", &console))?,
            result: line.to_string(),
        })
    }

    fn command(&self, spec: &Path, console: &Path, result: &Path) -> Command {
        let mut qemu = proc::command(&self.emulator.program().to_string_lossy());
        let file = |path: &Path| format!("file:{}", path.display());
        let icount = format!(
            "shift=0,sleep=off,round={},seed={},limit={}",
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
            .args(["-serial", &file(console), "-serial", &file(result)])
            .args([
                "-fw_cfg",
                &format!("name=opt/vmfirst.cell,file={}", spec.display()),
            ])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initrd)
            .args(["-append", CMDLINE]);
        qemu
    }
}
