//! The messages of ttrpc and of NRI v1alpha1 that this plugin needs, with the fields that it
//! needs: what else a message has is skipped. Numbers of fields and events are those of
//! ttrpc's and NRI's interface.

use std::collections::BTreeMap;

use prost::Message;

/// The service that a plugin is.
pub const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
/// The service that a runtime is.
pub const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";

/// Codes of a [`Status`], which are gRPC's.
pub mod code {
    /// The request makes no sense.
    pub const INVALID_ARGUMENT: i32 = 3;
    /// There are too many.
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    /// Not as the host is now.
    pub const FAILED_PRECONDITION: i32 = 9;
    /// There is no such method.
    pub const UNIMPLEMENTED: i32 = 12;
}

/// A question in ttrpc.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// Whose method.
    #[prost(string, tag = "1")]
    pub service: String,
    /// What is asked for.
    #[prost(string, tag = "2")]
    pub method: String,
    /// The method's own message.
    #[prost(bytes = "vec", tag = "3")]
    pub payload: Vec<u8>,
}

/// An answer in ttrpc.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    /// What went wrong, if something did.
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    /// The method's own message.
    #[prost(bytes = "vec", tag = "2")]
    pub payload: Vec<u8>,
}

/// How a question ended.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    /// 0 where nothing went wrong, else one of [`code`].
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// Has the runtime know a plugin.
#[derive(Clone, PartialEq, Message)]
pub struct RegisterPluginRequest {
    /// Its name.
    #[prost(string, tag = "1")]
    pub plugin_name: String,
    /// Two digits: plugins are asked in this order.
    #[prost(string, tag = "2")]
    pub plugin_idx: String,
}

/// Who the runtime is.
#[derive(Clone, PartialEq, Message)]
pub struct ConfigureRequest {
    /// Its name.
    #[prost(string, tag = "2")]
    pub runtime_name: String,
    /// Its version.
    #[prost(string, tag = "3")]
    pub runtime_version: String,
}

/// What a plugin wants to be told of.
#[derive(Clone, PartialEq, Message)]
pub struct ConfigureResponse {
    /// A bit for each [`Event`], the lowest for the event 1.
    #[prost(int32, tag = "2")]
    pub events: i32,
}

/// What happens in a runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Event {
    /// Another one.
    Unknown = 0,
    /// A pod is made, and none of its containers is.
    RunPodSandbox = 1,
    /// A pod is gone.
    RemovePodSandbox = 3,
    /// A container is made.
    CreateContainer = 4,
    /// A container's program is about to start.
    StartContainer = 6,
}

impl Event {
    /// Its bit of [`ConfigureResponse::events`].
    pub fn bit(self) -> i32 {
        1 << (self as i32 - 1)
    }
}

/// What there is already when a plugin registers.
#[derive(Clone, PartialEq, Message)]
pub struct SynchronizeRequest {
    /// The pods.
    #[prost(message, repeated, tag = "1")]
    pub pods: Vec<PodSandbox>,
    /// Whether others follow in another message.
    #[prost(bool, tag = "3")]
    pub more: bool,
}

/// The answer to it; this plugin asks for no changes of containers.
#[derive(Clone, PartialEq, Message)]
pub struct SynchronizeResponse {
    /// As in the question.
    #[prost(bool, tag = "2")]
    pub more: bool,
}

/// Tells of an event.
#[derive(Clone, PartialEq, Message)]
pub struct StateChangeEvent {
    /// Which.
    #[prost(enumeration = "Event", tag = "1")]
    pub event: i32,
    /// Of which pod.
    #[prost(message, optional, tag = "2")]
    pub pod: Option<PodSandbox>,
}

/// An event of a pod as NRI's later versions tell it, by a method of its own.
#[derive(Clone, PartialEq, Message)]
pub struct PodRequest {
    /// Of which pod.
    #[prost(message, optional, tag = "1")]
    pub pod: Option<PodSandbox>,
}

/// The answer to the making of a container.
#[derive(Clone, PartialEq, Message)]
pub struct CreateContainerResponse {
    /// What is to be other than asked for.
    #[prost(message, optional, tag = "1")]
    pub adjust: Option<ContainerAdjustment>,
}

/// What is to be other.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerAdjustment {
    /// Further mounts.
    #[prost(message, repeated, tag = "3")]
    pub mounts: Vec<Mount>,
}

/// A mount of a container.
#[derive(Clone, PartialEq, Message)]
pub struct Mount {
    /// Where, in the container.
    #[prost(string, tag = "1")]
    pub destination: String,
    /// "bind".
    #[prost(string, tag = "2")]
    pub kind: String,
    /// What, on the host.
    #[prost(string, tag = "3")]
    pub source: String,
    /// As mount(8) has them.
    #[prost(string, repeated, tag = "4")]
    pub options: Vec<String>,
}

/// A pod.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandbox {
    /// The runtime's name for it.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Kubernetes's name for it.
    #[prost(string, tag = "2")]
    pub name: String,
    /// What its name is within.
    #[prost(string, tag = "4")]
    pub namespace: String,
    /// As in its manifest.
    #[prost(btree_map = "string, string", tag = "6")]
    pub annotations: BTreeMap<String, String>,
    /// What only Linux has.
    #[prost(message, optional, tag = "8")]
    pub linux: Option<LinuxPodSandbox>,
}

/// What a pod has on Linux.
#[derive(Clone, PartialEq, Message)]
pub struct LinuxPodSandbox {
    /// The pod's control group.
    #[prost(string, tag = "3")]
    pub cgroup_parent: String,
}
