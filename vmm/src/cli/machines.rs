//! `vmm list`, `set`, `pause`, `resume`, `stop`: for machines that run.

use std::path::Path;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};
use vmfirst_host::model::Vm;
use vmfirst_host::read::Root;
use vmfirst_host::steer::{Wishes, steer};
use vmm::api::client::{Answer, Client};
use vmm::api::types::StopRequest;
use vmm::config::VmName;
use vmm::observe::outside;
use vmm::observe::types::{Info, State};
use vmm::rundir::RunDir;
use vmm::sched::{Change, Class};
use vmm::{Error, Result};

use super::ended::how;
use super::print;

/// What `vmm list --help` ends with.
pub const LIST_HELP: &str = "\
Examples:
  vmm list
  vmm list --json | jq -r '.[].vcpus[].tid'

A machine that does not answer within 2 seconds has a row that says so; the exit status is 1
then.";

/// What `vmm set --help` ends with.
pub const SET_HELP: &str = "\
Examples:
  Give a machine's vCPUs the real-time class and a CPU each:
    vmm set web --vcpu-class rr:2 --vcpu-affinity 0=2,1=3
  Half of a neighbour's share, and at most one CPU (the machine has a --cgroup):
    vmm set web --cpu-weight 50 --cpu-max 100%

What is not given stays. Everything is read back; when a part fails, all of it is undone. It is
done from outside, with the rights of who asks: a machine that runs as another user or does not
answer is changed all the same. What a real-time class has no use for, a slice, is to be given
again with a fair one.";

/// What `vmm stop --help` ends with.
pub const STOP_HELP: &str = "\
Examples:
  Press the power button and wait as long as the machine's --stop-timeout says:
    vmm stop web
  Wait two minutes for it; end it at once:
    vmm stop web --timeout 120
    vmm stop web --timeout 0

vmm's own exit status tells its starter how the guest ended: 0 when it powered off, 6 when
it did not in time.";

/// What `vmm pause --help` ends with.
pub const PAUSE_HELP: &str = "\
Example: leave the CPUs to others for a minute; the guest's clock goes on meanwhile:
  vmm pause web; sleep 60; vmm resume web";

/// The options of `vmm list`.
#[derive(Debug, clap::Args)]
pub struct List {
    /// Print all that is known as JSON
    #[arg(long)]
    json: bool,
}

impl List {
    /// Lists the machines that run. One that does not answer is listed, too.
    pub fn run(self, run_dir: &RunDir) -> Result<ExitCode> {
        let answers = Client::get_all::<Info>(&Client::all(run_dir)?, "/v1/info");
        let text = match self.json {
            true => {
                let all: Vec<_> = answers.iter().map(to_json).collect();
                format!("{}\n", json!(all))
            }
            false => table(&answers),
        };
        let printed = print(&text)?;
        Ok(match tell_silent(&answers) {
            true => ExitCode::FAILURE,
            false => printed,
        })
    }
}

fn table(answers: &[Answer<Info>]) -> String {
    let mut text = format!(
        "{:<20} {:>7} {:<8} {:>5} {:>8} CLASS\n",
        "NAME", "PID", "STATE", "VCPUS", "MEM"
    );
    for answer in answers {
        let name = answer.name.to_string();
        let process = answer.process.as_ref();
        let pid = process.map_or("-".into(), |process| process.pid.to_string());
        text += &format!("{name:<20} {pid:>7} ");
        let Ok(info) = &answer.said else {
            text += "NOT ANSWERING\n";
            continue;
        };
        let state = match info.state {
            State::Running => "running",
            State::Paused => "paused",
            State::Stopping => "stopping",
        };
        let mem = format!("{}M", info.mem_bytes >> 20);
        let vcpus = seen(answer).map(|vm| outside::threads(&vm).0);
        let count = vcpus.as_ref().map_or("-".into(), |v| v.len().to_string());
        let class = vcpus.iter().flatten().next().map_or("-", |v| &v.class);
        text += &format!("{state:<8} {count:>5} {mem:>8} {class}\n");
    }
    text
}

/// A machine as the kernel shows it; none where it does not.
fn seen(answer: &Answer<Info>) -> Option<Vm> {
    outside::vm(&answer.name, answer.process.as_ref()?).ok()
}

/// What a machine says of itself, with what is seen of it.
fn to_json(answer: &Answer<Info>) -> Value {
    let info = match &answer.said {
        Ok(info) => info,
        Err(error) => {
            return json!({
                "name": answer.name.to_string(),
                "pid": answer.process.as_ref().map(|process| process.pid),
                "state": "not-answering",
                "error": error.to_string(),
                "vcpus": [],
                "helpers": [],
            });
        }
    };
    let mut value = json!(info);
    let vm = seen(answer);
    let (vcpus, helpers) = vm.as_ref().map(outside::threads).unwrap_or_default();
    (value["vcpus"], value["helpers"]) = (json!(vcpus), json!(helpers));
    let group = vm.and_then(|vm| vm.group(&Root::default()));
    // Only the group that the kernel says it is in.
    if let (Some(said), Some(group)) = (&info.cgroup, group)
        && group.path() == Path::new(&said.path)
    {
        for (key, file) in [("cpu_weight", "cpu.weight"), ("cpu_max", "cpu.max")] {
            if let Ok(text) = group.get(file) {
                value["cgroup"][key] = json!(text);
            }
        }
    }
    value
}

/// Says which machines have not answered, and why; returns whether there are such.
pub fn tell_silent<T>(answers: &[Answer<T>]) -> bool {
    let silent = answers
        .iter()
        .filter_map(|answer| answer.said.as_ref().err());
    silent.map(|error| log::warn!("{error}")).count() > 0
}

/// The options of `vmm set`.
#[derive(Debug, clap::Args)]
pub struct Set {
    /// The machine
    name: VmName,
    #[command(flatten)]
    change: Change,
}

impl Set {
    /// Changes how a machine's threads run, from outside: by this user's rights, whatever the
    /// machine itself may do.
    pub fn run(self, run_dir: &RunDir) -> Result<ExitCode> {
        if self.change == Change::default() {
            return Err(Error::Usage("nothing to set: see vmm set --help".into()));
        }
        let process = Client::new(run_dir, &self.name).process()?;
        let vm = outside::vm(&self.name, &process)?;
        let strict = self.change.vcpu_class_strict.unwrap_or_default();
        let mut wishes = self.change.wishes();
        // One class after the other may be lacking.
        while let Err(error) = write(&vm, &wishes) {
            let asked = [&mut wishes.vcpu_class, &mut wishes.io_class];
            let mut lacking = asked.into_iter().flatten();
            let lacking = lacking.find(|class| class.is_lacking_by(&error));
            match lacking {
                Some(_) if strict => {
                    return Err(Error::Refused(format!(
                        "{error}, or leave --vcpu-class-strict away to run as fair"
                    )));
                }
                Some(class) => instead(&self.name, std::mem::take(class)),
                None => return Err(error.into()),
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn write(vm: &Vm, wishes: &Wishes) -> std::result::Result<(), vmfirst_host::Error> {
    steer(vm, wishes.writes(&Root::default(), vm)?).map(drop)
}

/// Says that threads get another class than the one that was asked for.
fn instead(name: &VmName, class: Class) {
    log::warn!(
        "the kernel has no scheduling class {class}: threads of {name} run as {}; \
         --vcpu-class-strict would refuse",
        Class::default()
    );
}

/// The options of `vmm pause` and `vmm resume`.
#[derive(Debug, clap::Args)]
pub struct Named {
    /// The machine
    name: VmName,
}

impl Named {
    /// Does what has no options.
    pub fn run(self, run_dir: &RunDir, path: &str) -> Result<ExitCode> {
        Client::new(run_dir, &self.name).post::<Info>(path, &json!({}))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The options of `vmm stop`.
#[derive(Debug, clap::Args)]
pub struct Stop {
    /// The machine
    name: VmName,
    /// How long its guest may take to power off; 0 ends it at once [default: its --stop-timeout]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
}

impl Stop {
    /// Stops a machine, waits for its end, and tells how it was.
    pub fn run(self, run_dir: &RunDir) -> Result<ExitCode> {
        let client = Client::new(run_dir, &self.name);
        // Before it is told to end, so that it is this process and no later one.
        let process = client.process()?;
        let ending = client.end();
        let timeout_s = self.timeout;
        client.post::<Info>("/v1/stop", &StopRequest { timeout_s })?;
        loop {
            let mut ended = [PollFd::new(&process.fd, PollFlags::IN)];
            match poll(&mut ended, None) {
                Ok(1..) => {
                    let how = how(&process.fd, ending.said());
                    return print(&format!("{} {how}\n", self.name));
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::system("wait for the machine")(error)),
            }
        }
    }
}
