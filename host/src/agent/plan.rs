//! What each group's priority means to write, and how far that holds on this host.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::config::Config;
use super::keeper::Wish;
use super::knob::{IDLE, Knob};
use super::priority::{Priority, Row};
use super::tree::{By, Tree};
use crate::Result;

/// How far a priority holds on a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// As the table declares it.
    Enforced,
    /// In part: why not wholly.
    BestEffort {
        /// What bounds it.
        reason: String,
    },
    /// Not at all: why.
    Unavailable {
        /// What is lacking.
        reason: String,
    },
    /// The table has nothing for this priority.
    Undeclared,
}

impl State {
    fn best_effort(reason: impl Into<String>) -> Self {
        Self::BestEffort {
            reason: reason.into(),
        }
    }

    fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable {
            reason: reason.into(),
        }
    }

    /// Of two parts of a resource: where one holds and the other doesn't, it is best effort.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Undeclared, state) | (state, Self::Undeclared) => state,
            (Self::Enforced, Self::Enforced) => Self::Enforced,
            (state @ Self::BestEffort { .. }, _) | (_, state @ Self::BestEffort { .. }) => state,
            (Self::Enforced, Self::Unavailable { reason })
            | (Self::Unavailable { reason }, Self::Enforced) => Self::BestEffort { reason },
            (state @ Self::Unavailable { .. }, Self::Unavailable { .. }) => state,
        }
    }
}

/// What a status is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// Time on CPUs.
    Cpu,
    /// Memory.
    Memory,
    /// Disks.
    Io,
    /// The network.
    Net,
}

/// A group with a priority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupStatus {
    /// Its path below cgroup v2's mount point.
    pub group: String,
    /// Its priority.
    pub priority: Priority,
    /// What it has that from.
    pub by: By,
    /// How far it holds, by resource.
    pub cpu: State,
    /// Memory.
    pub memory: State,
    /// Disks.
    pub io: State,
    /// The network.
    pub net: State,
}

impl GroupStatus {
    fn of(&mut self, resource: Resource) -> &mut State {
        match resource {
            Resource::Cpu => &mut self.cpu,
            Resource::Memory => &mut self.memory,
            Resource::Io => &mut self.io,
            Resource::Net => &mut self.net,
        }
    }
}

/// A disk of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// As the configuration has it.
    pub name: String,
    /// Its number as "8:0"; none: there is no such disk.
    pub number: Option<String>,
}

/// All that is to be written.
#[derive(Debug, Default)]
pub struct Plan {
    /// What to write.
    pub wishes: Vec<Wish>,
    /// For each wish the group in `groups` and the resource that it is for; none for the root's.
    whose: Vec<Option<(usize, Resource)>>,
    /// What has a wish.
    places: BTreeSet<(String, Knob)>,
    /// Whether nothing runs in a group but what is to be idle, once it was looked at.
    offline: BTreeMap<usize, bool>,
    /// The groups with a priority.
    pub groups: Vec<GroupStatus>,
}

impl Plan {
    /// For the groups of a tree.
    pub fn new(tree: &Tree, config: &Config, disks: &[Disk]) -> Self {
        let mut plan = Self::default();
        if config.io.cost {
            plan.cost(tree, disks);
        }
        for (node, priority, by) in tree.targets() {
            let row = config.table.get(&priority).cloned().unwrap_or_default();
            plan.groups.push(GroupStatus {
                group: tree.nodes[node].path.clone(),
                priority,
                by,
                cpu: State::Undeclared,
                memory: State::Undeclared,
                io: State::Undeclared,
                net: State::unavailable("this version writes no rules of tc"),
            });
            let mut planner = Planner {
                plan: &mut plan,
                tree,
                config,
                disks,
                node,
                priority,
                row: &row,
            };
            let states = match tree.nodes[node].foreign {
                Some(who) => [(); 3].map(|()| {
                    State::unavailable(format!(
                        "the group is managed by {who}: name it in manage = [] of [agent] to \
                         have it written to all the same"
                    ))
                }),
                None => [planner.cpu(), planner.memory(), planner.io()],
            };
            if let Some(group) = plan.groups.last_mut() {
                [group.cpu, group.memory, group.io] = states;
            }
        }
        plan
    }

    fn cost(&mut self, tree: &Tree, disks: &[Disk]) {
        for number in disks.iter().filter_map(|disk| disk.number.clone()) {
            self.add(Wish {
                group: "/".into(),
                id: tree.nodes[0].id,
                knob: Knob::Line("io.cost.qos".into(), number),
                value: "enable=1".into(),
                why: "io.weight takes io.cost".into(),
            });
        }
    }

    /// Adds a wish that no priority's row has.
    pub fn add(&mut self, wish: Wish) {
        self.wishes.push(wish);
        self.whose.push(None);
    }

    /// Forgets the other wishes.
    pub fn retain(&mut self, is_kept: impl Fn(&Wish) -> bool) {
        let all = self.wishes.drain(..).zip(self.whose.drain(..));
        (self.wishes, self.whose) = all.filter(|(wish, _)| is_kept(wish)).unzip();
    }

    /// Puts into the states what became of the wishes.
    pub fn done(&mut self, done: Vec<Result<()>>) {
        for (whose, done) in self.whose.iter().zip(done) {
            let (Some((at, resource)), Err(error)) = (whose, done) else {
                continue;
            };
            // The group's end is told by its absence.
            if !error.is_gone() {
                *self.groups[*at].of(*resource) = State::unavailable(error.to_string());
            }
        }
    }
}

/// Plans for one group.
struct Planner<'a> {
    plan: &'a mut Plan,
    tree: &'a Tree,
    config: &'a Config,
    disks: &'a [Disk],
    node: usize,
    priority: Priority,
    row: &'a Row,
}

impl Planner<'_> {
    fn wish(&mut self, resource: Resource, node: usize, knob: Knob, value: String) {
        let (group, id) = (self.tree.nodes[node].path.clone(), self.tree.nodes[node].id);
        let why = match node == self.node {
            true => format!("priority {}", self.priority),
            false => format!(
                "nothing runs in it but priority {}: {}",
                self.priority, self.tree.nodes[self.node].path
            ),
        };
        let wish = Wish {
            group,
            id,
            knob,
            value,
            why,
        };
        // Two groups may have the group above them in common.
        let place = (wish.group.clone(), wish.knob.clone());
        if self.plan.places.insert(place) {
            self.plan.wishes.push(wish);
            let whose = (self.plan.groups.len() - 1, resource);
            self.plan.whose.push(Some(whose));
        }
    }

    fn has(&self, file: &str) -> bool {
        self.tree.folder(self.node).join(file).exists()
    }

    /// Where the kernel lacks a controller's file in a group, its parent hasn't enabled that.
    fn lacking(&self, controller: &str) -> State {
        let parent = self.tree.nodes[self.node].parent.unwrap_or(0);
        let parent = &self.tree.nodes[parent].path;
        State::unavailable(format!(
            "the controller {controller} is not enabled in {parent}: echo +{controller} to its \
             cgroup.subtree_control, or give a unit there a setting of it"
        ))
    }

    fn cpu(&mut self) -> State {
        let Some(weight) = self.row.cpu_weight else {
            return State::Undeclared;
        };
        if !self.has("cpu.weight") {
            return self.lacking("cpu");
        }
        let offline = self.row.cpu_idle == Some(true);
        if !offline || !self.has("cpu.idle") {
            self.wish(Resource::Cpu, self.node, Knob::Cpu, weight.to_string());
            return match offline {
                true => State::best_effort(format!(
                    "this kernel has no cpu.idle (Linux 5.15): it has weight {weight}"
                )),
                false => State::Enforced,
            };
        }
        // cpu.idle compares siblings only: so it is set up to where others are beside it.
        let tree = self.tree;
        let mut top = self.node;
        for at in tree.upwards(self.node) {
            if at != self.node && !self.is_offline(at) {
                break;
            }
            self.wish(Resource::Cpu, at, Knob::Cpu, IDLE.into());
            top = at;
        }
        match tree.nodes[top].parent {
            None | Some(0) => State::Enforced,
            Some(split) => State::best_effort(format!(
                "cpu.idle counts against groups in {} only",
                tree.nodes[split].path
            )),
        }
    }

    /// Whether nothing runs in a group but what is to be idle.
    fn is_offline(&mut self, node: usize) -> bool {
        if let Some(known) = self.plan.offline.get(&node) {
            return *known;
        }
        let is = self.looks_offline(node);
        self.plan.offline.insert(node, is);
        is
    }

    fn looks_offline(&mut self, node: usize) -> bool {
        let tree = self.tree;
        let found = &tree.nodes[node];
        if found.foreign.is_some() {
            return false;
        }
        if let Some((priority, _)) = found.own {
            let row = self.config.table.get(&priority);
            return row.is_some_and(|row| row.cpu_idle == Some(true));
        }
        let text = |at, file| tree.group(at).get(file).unwrap_or_default();
        let empty = |at| {
            text(at, "cgroup.events")
                .lines()
                .any(|line| line == "populated 0")
        };
        let processes = tree.group(node).get("cgroup.procs");
        processes.is_ok_and(|processes| processes.is_empty())
            && !found.within.is_empty()
            && found
                .within
                .iter()
                .all(|at| empty(*at) || self.is_offline(*at))
    }

    fn memory(&mut self) -> State {
        let bound = |value: Option<super::priority::Memory>| value.map(|value| value.to_string());
        let row = self.row;
        let values = [
            ("memory.min", bound(row.memory_min)),
            ("memory.low", bound(row.memory_low)),
            ("memory.high", bound(row.memory_high)),
            (
                "memory.oom.group",
                row.oom_group.map(|on| u8::from(on).to_string()),
            ),
        ];
        let values = values.into_iter().filter_map(|(file, v)| Some((file, v?)));
        let values: Vec<_> = values.collect();
        if values.is_empty() && row.reclaim != Some(true) {
            return State::Undeclared;
        }
        if !self.has("memory.low") {
            return self.lacking("memory");
        }
        let mut state = State::Enforced;
        for (file, value) in values {
            if ["memory.min", "memory.low"].contains(&file) {
                state = state.and(self.protection(file, &value));
            }
            self.wish(Resource::Memory, self.node, Knob::file(file), value);
        }
        if row.reclaim == Some(true) && !self.has("memory.reclaim") {
            state = state.and(State::best_effort(
                "this kernel has no memory.reclaim (Linux 5.19): nothing is taken from it before \
                 the kernel does",
            ));
        }
        state
    }

    /// Each group above bounds what is protected.
    fn protection(&self, file: &str, value: &str) -> State {
        let bytes = |text: &str| match text {
            "max" => u64::MAX,
            text => text.parse().unwrap_or_default(),
        };
        let mut above = self.tree.upwards(self.node).skip(1);
        let less = above.find_map(|at| {
            let has = self.tree.group(at).get(file).unwrap_or_default();
            (bytes(&has) < bytes(value)).then(|| (self.tree.nodes[at].path.clone(), has))
        });
        less.map_or(State::Enforced, |(path, has)| {
            State::best_effort(format!("{file} of {path} is {has}, which bounds it"))
        })
    }

    fn io(&mut self) -> State {
        let row = self.row;
        let latency = row
            .io_latency_us
            .map(|us| ("io.latency", format!("target={us}")));
        let limits = row.io_max.clone().map(|limits| ("io.max", limits));
        let lines: Vec<_> = latency.into_iter().chain(limits).collect();
        let mut state = match row.io_weight {
            Some(weight) => self.io_weight(&weight.to_string()),
            None => State::Undeclared,
        };
        for (file, value) in lines {
            state = state.and(self.each_disk(file, &value));
        }
        state
    }

    fn io_weight(&mut self, weight: &str) -> State {
        if !self.has("io.weight") {
            return self.lacking("io");
        }
        let (with, without): (Vec<_>, Vec<_>) = self.disks.iter().partition(|disk| {
            let number = disk.number.clone().unwrap_or_default();
            let knob = Knob::Line("io.cost.qos".into(), number);
            let qos = knob.get(&self.tree.group(0)).unwrap_or_default();
            knob.is_same("enable=1", &qos)
        });
        let names = |disks: &[&Disk]| {
            let names: Vec<_> = disks.iter().map(|disk| disk.name.as_str()).collect();
            names.join(", ")
        };
        if with.is_empty() {
            return State::unavailable(match without[..] {
                [] => "io.weight does nothing without io.cost: name disks and cost = true in [io]"
                    .into(),
                _ => format!(
                    "io.weight does nothing without io.cost, which {} has not",
                    names(&without)
                ),
            });
        }
        let knob = Knob::Line("io.weight".into(), "default".into());
        self.wish(Resource::Io, self.node, knob, weight.into());
        match without[..] {
            [] => State::Enforced,
            _ => State::best_effort(format!("io.cost is not enabled on {}", names(&without))),
        }
    }

    fn each_disk(&mut self, file: &str, value: &str) -> State {
        if !self.has("io.max") {
            return self.lacking("io");
        }
        if !self.has(file) {
            return State::unavailable(format!("this kernel has no {file}"));
        }
        if self.disks.is_empty() {
            return State::unavailable(format!("{file} is of a disk: name disks in [io]"));
        }
        let mut state = State::Enforced;
        for disk in self.disks {
            match &disk.number {
                Some(number) => {
                    let knob = Knob::Line(file.into(), number.clone());
                    self.wish(Resource::Io, self.node, knob, value.into());
                }
                None => {
                    let reason = format!("there is no disk {}", disk.name);
                    state = state.and(State::unavailable(reason));
                }
            }
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use std::fs;
    use std::path::Path;

    const FILES: &[(&str, &str)] = &[
        ("cpu.weight", "100"),
        ("cpu.idle", "0"),
        ("memory.min", "0"),
        ("memory.low", "0"),
        ("memory.high", "max"),
        ("memory.oom.group", "0"),
        ("memory.reclaim", ""),
        ("io.weight", "default 100"),
        ("io.max", ""),
        ("io.latency", ""),
        ("cgroup.procs", ""),
        ("cgroup.events", "populated 1\nfrozen 0"),
    ];

    fn host(groups: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("io.cost.qos"), "8:0 enable=0 ctrl=auto\n").unwrap();
        for group in groups {
            let mut folder = root.path().to_path_buf();
            for name in group.split('/') {
                folder.push(name);
                fs::create_dir_all(&folder).unwrap();
                for (file, text) in FILES {
                    fs::write(folder.join(file), text).unwrap();
                }
            }
        }
        root
    }

    fn config(groups: &[(&str, i64)]) -> Config {
        let mut config = Config::default();
        for (group, number) in groups {
            let priority = Priority::try_from(*number).unwrap();
            config.groups.insert(group.to_string(), priority);
        }
        config
    }

    fn sda() -> Vec<Disk> {
        vec![Disk {
            name: "sda".into(),
            number: Some("8:0".into()),
        }]
    }

    fn plan(root: &Path, config: &Config, disks: &[Disk]) -> Plan {
        Plan::new(&Tree::scan(root, config).unwrap(), config, disks)
    }

    /// Group, knob and value of each wish for this knob.
    fn wishes(plan: &Plan, knob: &str) -> Vec<String> {
        let wishes = plan
            .wishes
            .iter()
            .filter(|wish| wish.knob.to_string() == knob);
        let mut all: Vec<_> = wishes.map(|w| format!("{} {}", w.group, w.value)).collect();
        all.sort();
        all
    }

    fn reason(state: &State) -> &str {
        match state {
            State::BestEffort { reason } | State::Unavailable { reason } => reason,
            state => panic!("{state:?}"),
        }
    }

    #[test]
    fn idle_is_set_up_to_the_split() {
        let root = host(&["off/pods/a", "off/pods/b", "off/empty", "on"]);
        fs::write(
            root.path().join("off/empty/cgroup.events"),
            "populated 0\nfrozen 0",
        )
        .unwrap();
        let config = config(&[("/off/pods/a", 7), ("/off/pods/b", 7), ("/on", 0)]);
        let found = plan(root.path(), &config, &[]);
        let idle = [
            "/off idle",
            "/off/pods idle",
            "/off/pods/a idle",
            "/off/pods/b idle",
        ];
        assert_eq!(wishes(&found, "cpu.weight")[..4], idle);
        assert_eq!(wishes(&found, "cpu.weight")[4..], ["/on 800"]);
        assert!(
            found
                .groups
                .iter()
                .all(|group| group.cpu == State::Enforced)
        );
        // A process in a group between, one without priority beside, another's group.
        for (file, text) in [
            ("off/cgroup.procs", "1"),
            ("off/empty/cgroup.events", "populated 1"),
        ] {
            let before = fs::read(root.path().join(file)).unwrap();
            fs::write(root.path().join(file), text).unwrap();
            let found = plan(root.path(), &config, &[]);
            let idle = [
                "/off/pods idle",
                "/off/pods/a idle",
                "/off/pods/b idle",
                "/on 800",
            ];
            assert_eq!(wishes(&found, "cpu.weight"), idle, "{file}");
            assert!(
                reason(&found.groups[1].cpu).contains("groups in /off only"),
                "{file}"
            );
            fs::write(root.path().join(file), before).unwrap();
        }
    }

    #[test]
    fn a_group_above_with_another_priority_is_not_idle() {
        let root = host(&["vmfirst.slice/vmfirst-low.slice"]);
        let found = plan(root.path(), &Config::default(), &[]);
        let low = "/vmfirst.slice/vmfirst-low.slice idle";
        assert_eq!(wishes(&found, "cpu.weight"), ["/vmfirst.slice 100", low]);
    }

    #[test]
    fn what_is_anothers_has_no_wish_and_a_reason() {
        let root = host(&["kubepods.slice/pod"]);
        let found = plan(root.path(), &config(&[("/kubepods.slice/pod", 7)]), &[]);
        assert_eq!(found.wishes, []);
        for state in [
            &found.groups[0].cpu,
            &found.groups[0].memory,
            &found.groups[0].io,
        ] {
            assert!(reason(state).contains("managed by kubelet"));
        }
    }

    #[test]
    fn protection_is_bounded_by_the_groups_above() {
        let root = host(&["a/b"]);
        let config = config(&[("/a/b", 0)]);
        let found = plan(root.path(), &config, &[]);
        assert_eq!(wishes(&found, "memory.low"), ["/a/b max"]);
        assert_eq!(
            reason(&found.groups[0].memory),
            "memory.low of /a is 0, which bounds it"
        );
        fs::write(root.path().join("a/memory.low"), "max").unwrap();
        assert_eq!(
            plan(root.path(), &config, &[]).groups[0].memory,
            State::Enforced
        );
    }

    #[test]
    fn a_weight_of_disks_needs_io_cost() {
        let root = host(&["a"]);
        let mut config = config(&[("/a", 0)]);
        let found = plan(root.path(), &config, &[]);
        assert!(reason(&found.groups[0].io).contains("name disks"));
        config.io.cost = true;
        let found = plan(root.path(), &config, &sda());
        assert_eq!(wishes(&found, "io.cost.qos:8:0"), ["/ enable=1"]);
        assert!(reason(&found.groups[0].io).contains("which sda has not"));
        fs::write(root.path().join("io.cost.qos"), "8:0 enable=1 ctrl=auto\n").unwrap();
        let found = plan(root.path(), &config, &sda());
        assert_eq!(found.groups[0].io, State::Enforced);
        assert_eq!(wishes(&found, "io.weight:default"), ["/a 800"]);
        let row = config
            .table
            .get_mut(&Priority::try_from(0).unwrap())
            .unwrap();
        row.io_latency_us = Some(5000);
        fs::remove_file(root.path().join("a/io.latency")).unwrap();
        let found = plan(root.path(), &config, &sda());
        assert_eq!(reason(&found.groups[0].io), "this kernel has no io.latency");
        assert!(matches!(found.groups[0].io, State::BestEffort { .. }));
    }

    #[test]
    fn what_the_kernel_lacks_is_said() {
        let root = host(&["a"]);
        for file in ["cpu.idle", "memory.reclaim"] {
            fs::remove_file(root.path().join("a").join(file)).unwrap();
        }
        let config = config(&[("/a", 7)]);
        let found = plan(root.path(), &config, &[]);
        assert_eq!(wishes(&found, "cpu.weight"), ["/a 1"]);
        assert!(reason(&found.groups[0].cpu).contains("no cpu.idle"));
        assert!(reason(&found.groups[0].memory).contains("no memory.reclaim"));
        for file in ["cpu.weight", "memory.low"] {
            fs::remove_file(root.path().join("a").join(file)).unwrap();
        }
        let mut found = plan(root.path(), &config, &[]);
        assert!(reason(&found.groups[0].cpu).contains("controller cpu is not enabled in /"));
        assert!(reason(&found.groups[0].memory).contains("controller memory"));
        assert_eq!(found.wishes, []);
        // What fails when it is written.
        found.wishes.clear();
        let mut found = plan(host(&["a"]).path(), &config, &[]);
        let done = found
            .wishes
            .iter()
            .map(|_| Err(Error::Unavailable("no".into())));
        let done = done.collect();
        found.done(done);
        assert_eq!(reason(&found.groups[0].cpu), "no");
    }
}
