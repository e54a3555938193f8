//! A pod's control group by its path, and what a pod asks for by its annotations.

use std::collections::BTreeMap;

use super::messages::PodSandbox;
use crate::agent::config;
use crate::agent::priority::Priority;
use crate::model::shown;

/// The annotation that has a pod's priority.
pub const PRIORITY: &str = "vmfirst.io/priority";
/// The annotation that has the pod's containers see their own machine.
pub const VIEW: &str = "vmfirst.io/view";

/// What kubelet calls a pod's class of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// All of its containers have limits, which are their requests.
    Guaranteed,
    /// Some container has a request or a limit.
    Burstable,
    /// No container has either.
    BestEffort,
}

impl Class {
    /// The priority of a pod that asks for none.
    pub fn priority(self) -> Priority {
        match self {
            Self::Guaranteed => Priority::HIGHEST,
            Self::Burstable => Priority::MIDDLE,
            Self::BestEffort => Priority::OFFLINE,
        }
    }
}

/// The class of the pod that has this group; none when it is no pod's. Kubelet's two drivers
/// make "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice" and
/// "/kubepods/burstable/pod1-2", and a pod of class Guaranteed is in kubepods itself. With
/// --cgroup-root the first one has other groups around it, and systemd's names begin with
/// theirs.
pub fn class(path: &str) -> Option<Class> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let top = parts.iter().position(|part| is_top(part))?;
    let slice = parts[top].strip_suffix(".slice");
    let name = |of: &str| match slice {
        Some(top) => format!("{top}-{of}"),
        None => of.to_string(),
    };
    let (class, pod, prefix) = match parts[top + 1..] {
        [pod] => (Class::Guaranteed, pod, name("pod")),
        [level, pod] => {
            let level = level.strip_suffix(".slice").unwrap_or(level);
            let class = [
                ("burstable", Class::Burstable),
                ("besteffort", Class::BestEffort),
            ];
            let found = class.iter().find(|(of, _)| name(of) == level)?;
            match slice {
                Some(_) => (found.1, pod, format!("{level}-pod")),
                None => (found.1, pod, "pod".to_string()),
            }
        }
        _ => return None,
    };
    let id = match slice {
        Some(_) => pod.strip_suffix(".slice")?,
        None => pod,
    };
    let id = id.strip_prefix(&prefix)?;
    (!id.is_empty()).then_some(class)
}

/// Whether a group of this name is the one around all pods.
fn is_top(name: &str) -> bool {
    ["kubepods", "kubepods.slice"].contains(&name) || name.ends_with("-kubepods.slice")
}

/// Whether a group is kubelet's and around pods: the one of all, or of those of a class.
pub fn is_around(path: &str) -> bool {
    let mut last = path.rsplit('/');
    let (name, above) = (
        last.next().unwrap_or_default(),
        last.next().unwrap_or_default(),
    );
    let of_class = ["burstable", "besteffort"].iter().any(|of| {
        name == *of
            || name
                .strip_suffix(".slice")
                .is_some_and(|name| name.ends_with(of))
    });
    is_top(name) || (is_top(above) && of_class)
}

/// A pod as the runtime tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name and namespace, for people.
    pub name: String,
    /// Its group's path below cgroup v2's mount point.
    pub group: String,
    /// Its class.
    pub class: Class,
    /// The priority that it asks for.
    pub asked: Option<Priority>,
    /// Whose machine its containers see in /proc, if they do.
    pub view: Option<View>,
}

/// Whose machine a container sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Its own.
    Container,
    /// Its pod's.
    Pod,
}

impl Pod {
    /// Understands a pod; none when its group is not kubelet's. What the pod asks for and
    /// can't have is in the second value, and the pod has what it has without asking.
    pub fn of(pod: &PodSandbox) -> Option<(Self, Result<(), String>)> {
        let parent = pod.linux.as_ref().map(|linux| linux.cgroup_parent.as_str());
        let group = group(parent.unwrap_or_default())?;
        let class = class(&group)?;
        let priority = asked(&pod.annotations, PRIORITY, |text| text.parse());
        let view = asked(&pod.annotations, VIEW, |text| match text {
            "container" => Ok(View::Container),
            "pod" => Ok(View::Pod),
            _ => Err(format!("{text:?} is no view: container or pod")),
        });
        let understood = priority.as_ref().map(drop).and(view.as_ref().map(drop));
        let understood = understood.map_err(String::clone);
        let name = shown(&format!("{}/{}", pod.namespace, pod.name));
        let pod = Self {
            name,
            group,
            class,
            asked: priority.unwrap_or_default(),
            view: view.unwrap_or_default(),
        };
        Some((pod, understood))
    }

    /// The priority that it has by what it asks for, or by its class.
    pub fn priority(&self) -> Priority {
        self.asked.unwrap_or(self.class.priority())
    }
}

/// What an annotation says, if there is one.
fn asked<T>(
    annotations: &BTreeMap<String, String>,
    key: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    let Some(text) = annotations.get(key) else {
        return Ok(None);
    };
    // What is longer is wrong, and said in one line.
    let text: String = text.chars().take(40).collect();
    let found = parse(&text).map(Some);
    found.map_err(|error| shown(&format!("annotation {key}: {error}")))
}

/// The group's path by what the runtime has of it: with systemd that may be the slice's name
/// alone, which has those around it in its name.
fn group(parent: &str) -> Option<String> {
    let path = config::path(parent).ok()?;
    match path.rsplit_once('/') {
        Some(("", name)) if name.ends_with(".slice") => Some(slices(name)),
        _ => Some(path),
    }
}

/// "a-b.slice" is in "a.slice".
fn slices(name: &str) -> String {
    let stem = name.trim_end_matches(".slice");
    let ends = stem.match_indices('-').map(|(at, _)| at);
    let all = ends.chain([stem.len()]);
    all.map(|end| format!("/{}.slice", &stem[..end])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pod(parent: &str, annotations: &[(&str, &str)]) -> PodSandbox {
        let annotations = annotations
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()));
        PodSandbox {
            name: "web".into(),
            namespace: "shop".into(),
            annotations: annotations.collect(),
            linux: Some(super::super::messages::LinuxPodSandbox {
                cgroup_parent: parent.into(),
            }),
            ..PodSandbox::default()
        }
    }

    #[test]
    fn classes_are_in_both_drivers_paths() {
        let known = [
            ("/kubepods.slice/kubepods-pod1_2.slice", Class::Guaranteed),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice",
                Class::Burstable,
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice",
                Class::BestEffort,
            ),
            ("/kubepods/pod1-2", Class::Guaranteed),
            ("/kubepods/burstable/pod1-2", Class::Burstable),
            ("/kubepods/besteffort/pod1-2", Class::BestEffort),
            (
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod1.slice",
                Class::BestEffort,
            ),
            ("/kubelet/kubepods/burstable/pod1", Class::Burstable),
        ];
        for (path, expected) in known {
            assert_eq!(class(path), Some(expected), "{path}");
            let (above, _) = path.rsplit_once('/').unwrap();
            assert!(is_around(above) && !is_around(path), "{path}");
        }
    }

    /// Neither the groups around pods nor those within them, nor somebody else's.
    #[test]
    fn other_groups_are_no_pods() {
        for path in [
            "",
            "/",
            "/kubepods",
            "/kubepods.slice",
            "/kubepods.slice/kubepods-besteffort.slice",
            "/kubepods.slice/kubepods-pod1.slice/cri-containerd-7.scope",
            "/kubepods.slice/kubepods-pod.slice",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-burstable-pod1.slice",
            "/kubepods.slice/pod1",
            "/kubepods/besteffort/pod1/7",
            "/kubepods/other/pod1",
            "/system.slice/pod1",
            "/k8s.io/7",
        ] {
            assert_eq!(class(path), None, "{path}");
        }
        for path in ["/", "/system.slice", "/a/burstable"] {
            assert!(!is_around(path), "{path}");
        }
    }

    #[test]
    fn a_pod_has_what_it_asks_for_or_its_classs() {
        let slice = "kubepods-besteffort-pod1.slice";
        let (found, understood) = Pod::of(&pod(slice, &[])).unwrap();
        let path = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice";
        assert_eq!(
            (found.group.as_str(), found.name.as_str()),
            (path, "shop/web")
        );
        assert_eq!((found.priority().number(), understood), (7, Ok(())));
        let asks = [(PRIORITY, "2"), (VIEW, "pod")];
        let (found, understood) = Pod::of(&pod(path, &asks)).unwrap();
        assert_eq!(
            (found.priority().number(), found.view),
            (2, Some(View::Pod))
        );
        assert_eq!(understood, Ok(()));
        for (parent, priority) in [("/kubepods/pod1", 0), ("kubepods/burstable/pod1", 3)] {
            let (found, _) = Pod::of(&pod(parent, &[])).unwrap();
            assert_eq!(found.priority().number(), priority);
        }
    }

    #[test]
    fn what_cant_be_is_said_in_one_line() {
        for (key, value) in [
            (PRIORITY, "8"),
            (PRIORITY, "high\n"),
            (PRIORITY, ""),
            (VIEW, "yes"),
        ] {
            let (found, understood) = Pod::of(&pod("/kubepods/pod1", &[(key, value)])).unwrap();
            assert_eq!((found.priority().number(), found.view), (0, None));
            let said = understood.unwrap_err();
            assert!(said.starts_with(&format!("annotation {key}: ")), "{said}");
            assert!(!said.contains('\n'), "{said:?}");
        }
        for parent in ["", "/", "/k8s.io", "/kubepods/../etc/kubepods/pod1"] {
            assert_eq!(Pod::of(&pod(parent, &[])), None, "{parent}");
        }
        assert_eq!(Pod::of(&PodSandbox::default()), None);
    }

    proptest! {
        #[test]
        fn any_path_is_a_pods_or_not(path in "(/|kubepods|\\.slice|-|pod|burstable|\\PC){0,12}") {
            let _ = (class(&path), is_around(&path), Pod::of(&pod(&path, &[])));
        }
    }
}
