//! The answers to what a runtime asks.

use std::path::{Path, PathBuf};

use prost::Message;

use super::groups::Groups;
use super::messages::{
    ConfigureRequest, ConfigureResponse, ContainerAdjustment, CreateContainerResponse, Event,
    Mount, PLUGIN_SERVICE, PodRequest, PodSandbox, Request, Response, StateChangeEvent, Status,
    SynchronizeRequest, SynchronizeResponse, code,
};
use super::pods::Pod;
use super::watch::Watch;
use crate::model::shown;
use crate::read::Root;
use crate::view::mounts;

/// The files of /proc that runc allows a mount over: vmstat and pressure are not among them.
const PROC: [&str; 7] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
];
/// Who says what a pod's events have.
const SAYS: &str = "vmfirst nri: ";
/// The folder that is mounted as a whole.
const CPUS: &str = "sys/devices/system/cpu";
const EVENTS: [Event; 4] = [
    Event::RunPodSandbox,
    Event::RemovePodSandbox,
    Event::CreateContainer,
    Event::StartContainer,
];

type Answer = Result<Vec<u8>, Status>;

/// What is known of a runtime, and how it is answered.
#[derive(Debug)]
pub struct Plugin {
    root: Root,
    /// Where `vmfirst view` is mounted.
    view: PathBuf,
    /// The runtime's name and version.
    pub runtime: Option<String>,
    /// Whether pods of one list come in more than one message.
    is_listing: bool,
}

impl Plugin {
    /// For a host whose view is at this folder.
    pub fn new(root: Root, view: PathBuf) -> Self {
        Self {
            root,
            view,
            runtime: None,
            is_listing: false,
        }
    }

    /// Answers a question, as ttrpc has it.
    pub fn answer(&mut self, groups: &mut Groups, watch: &Watch, request: &[u8]) -> Response {
        match self.call(groups, watch, request) {
            Ok(payload) => Response {
                status: None,
                payload,
            },
            Err(status) => {
                groups.note(status.message.trim_start_matches(SAYS).into());
                Response {
                    status: Some(status),
                    payload: Vec::new(),
                }
            }
        }
    }

    fn call(&mut self, groups: &mut Groups, watch: &Watch, request: &[u8]) -> Answer {
        let request: Request = decoded(request)?;
        let payload = request.payload.as_slice();
        let unknown = || {
            let text = format!("there is no {} of {}", request.method, request.service);
            status(code::UNIMPLEMENTED, &text)
        };
        if request.service != PLUGIN_SERVICE {
            return Err(unknown());
        }
        let pod = || decoded::<PodRequest>(payload).map(|request| request.pod);
        match request.method.as_str() {
            "Configure" => Ok(self.configure(&decoded(payload)?)),
            "Synchronize" => self.synchronize(groups, watch, decoded(payload)?),
            "StateChange" => {
                let event: StateChangeEvent = decoded(payload)?;
                let what = event.event();
                self.event(groups, watch, what, event.pod)
            }
            "RunPodSandbox" => self.event(groups, watch, Event::RunPodSandbox, pod()?),
            "RemovePodSandbox" => self.event(groups, watch, Event::RemovePodSandbox, pod()?),
            "StartContainer" => self.event(groups, watch, Event::StartContainer, pod()?),
            "CreateContainer" => self.create(groups, watch, pod()?),
            "Shutdown" => Ok(Vec::new()),
            _ => Err(unknown()),
        }
    }

    fn configure(&mut self, request: &ConfigureRequest) -> Vec<u8> {
        let runtime = format!("{} {}", request.runtime_name, request.runtime_version);
        self.runtime = Some(shown(&runtime));
        let events = EVENTS.iter().map(|event| event.bit()).sum();
        ConfigureResponse { events }.encode_to_vec()
    }

    /// The pods that there are: none is refused, for all of them run.
    fn synchronize(
        &mut self,
        groups: &mut Groups,
        watch: &Watch,
        request: SynchronizeRequest,
    ) -> Answer {
        if !self.is_listing {
            groups.forget_all();
        }
        self.is_listing = request.more;
        for (mut pod, understood) in request.pods.iter().filter_map(Pod::of) {
            let understood = understood.and_then(|()| groups.allow(&pod));
            if let Err(error) = understood {
                pod.asked = None;
                let priority = pod.priority();
                groups.note(format!(
                    "pod {} runs at priority {priority}: {error}",
                    pod.name
                ));
            }
            groups.know(pod).map_err(too_many)?;
        }
        if !request.more {
            self.reconcile(groups, watch);
        }
        let more = request.more;
        Ok(SynchronizeResponse { more }.encode_to_vec())
    }

    fn event(
        &mut self,
        groups: &mut Groups,
        watch: &Watch,
        event: Event,
        pod: Option<PodSandbox>,
    ) -> Answer {
        let pod = pod.unwrap_or_default();
        match event {
            Event::RemovePodSandbox => {
                if let Some((pod, _)) = Pod::of(&pod) {
                    groups.forget(&pod);
                }
            }
            Event::RunPodSandbox => {
                let found = self.understood(groups, &pod)?;
                if let Some(pod) = found {
                    groups.begin(pod).map_err(too_many)?;
                    self.reconcile(groups, watch);
                }
            }
            Event::CreateContainer | Event::StartContainer => {
                self.ensure(groups, watch, &pod)?;
            }
            Event::Unknown => {}
        }
        Ok(Vec::new())
    }

    /// A container is made: its pod has its priority by now, and its mounts are added.
    fn create(&mut self, groups: &mut Groups, watch: &Watch, pod: Option<PodSandbox>) -> Answer {
        let pod = self.ensure(groups, watch, &pod.unwrap_or_default())?;
        if let Some(pod) = &pod {
            self.check_view(pod)?;
        }
        let adjust = pod.and_then(|pod| pod.view).map(|_| ContainerAdjustment {
            mounts: mounts_of(&self.view),
        });
        Ok(CreateContainerResponse { adjust }.encode_to_vec())
    }

    /// Has a pod at its priority, one whose beginning nobody told of, too. What a known one
    /// asks for was judged when it began.
    fn ensure(
        &mut self,
        groups: &mut Groups,
        watch: &Watch,
        pod: &PodSandbox,
    ) -> Result<Option<Pod>, Status> {
        let group = Pod::of(pod).map(|(pod, _)| pod.group);
        let known = group.and_then(|group| groups.known(&group).cloned());
        let pod = match known {
            Some(pod) => Some(pod),
            None => self.understood(groups, pod)?,
        };
        if let Some(pod) = &pod {
            groups.know(pod.clone()).map_err(too_many)?;
            self.reconcile(groups, watch);
        }
        Ok(pod)
    }

    /// What a pod asks for, or why it can't have that.
    fn understood(&self, groups: &Groups, pod: &PodSandbox) -> Result<Option<Pod>, Status> {
        let Some((found, understood)) = Pod::of(pod) else {
            return Ok(None);
        };
        let understood = understood.and_then(|()| groups.allow(&found));
        understood.map_err(|why| refusal(code::INVALID_ARGUMENT, &found, &why))?;
        self.check_view(&found)?;
        Ok(Some(found))
    }

    /// A pod that asks for a view begins only where there is one.
    fn check_view(&self, pod: &Pod) -> Result<(), Status> {
        // Without a question to it: it might not answer.
        if pod.view.is_none() || mounts(&self.root, &self.view, "fuse") > 0 {
            return Ok(());
        }
        let why = format!(
            "it asks for a view, and vmfirst view is not mounted at {}: systemctl start \
             vmfirst-view",
            self.view.display()
        );
        Err(refusal(code::FAILED_PRECONDITION, pod, &why))
    }

    /// A value that can't be written is told, and keeps no pod from running.
    fn reconcile(&self, groups: &mut Groups, watch: &Watch) {
        if let Err(error) = groups.reconcile(self.runtime.as_deref(), watch) {
            groups.note(error.to_string());
        }
    }
}

/// What a container sees its machine by.
fn mounts_of(view: &Path) -> Vec<Mount> {
    let files = PROC.iter().map(|file| format!("proc/{file}"));
    let options = ["bind", "ro", "nosuid", "nodev", "noexec"];
    let mount = |path: String| Mount {
        destination: format!("/{path}"),
        kind: "bind".into(),
        source: view.join(&path).display().to_string(),
        options: options.map(String::from).to_vec(),
    };
    files.chain([CPUS.into()]).map(mount).collect()
}

fn decoded<T: Message + Default>(bytes: &[u8]) -> Result<T, Status> {
    T::decode(bytes).map_err(|error| status(code::INVALID_ARGUMENT, &error.to_string()))
}

fn status(code: i32, message: &str) -> Status {
    Status {
        code,
        message: format!("{SAYS}{}", shown(message)),
    }
}

fn refusal(code: i32, pod: &Pod, why: &str) -> Status {
    status(code, &format!("pod {}: {why}", pod.name))
}

fn too_many(error: crate::Error) -> Status {
    status(code::RESOURCE_EXHAUSTED, &error.to_string())
}
