//! Which CPUs the threads may use.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::{Tid, whose};
use crate::{Error, Result};

/// CPUs of the host, at least one: "0-3,8".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuList(Vec<(u16, u16)>);

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last && usize::from(last) < CpuSet::MAX_CPU).then_some((first, last))
        };
        let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
        ranges.map(Self).ok_or_else(|| {
            format!(
                "{text:?} is no list of CPUs such as 0-3,8, up to {}",
                CpuSet::MAX_CPU - 1
            )
        })
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut comma = "";
        for (first, last) in &self.0 {
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

impl CpuList {
    /// The CPUs that a thread may use.
    pub fn of(tid: Tid) -> std::io::Result<Self> {
        let set = sched_getaffinity(Pid::from_raw(tid))?;
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for cpu in (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)) {
            let cpu = cpu as u16;
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        Ok(Self(ranges))
    }

    /// The CPUs, in the list's order.
    pub fn cpus(&self) -> impl Iterator<Item = u16> {
        self.0.iter().flat_map(|&(first, last)| first..=last)
    }

    /// How many CPUs it has.
    pub fn count(&self) -> usize {
        self.cpus().count()
    }

    /// The first `most` of the CPUs, in the list's order.
    pub fn first(&self, most: usize) -> Self {
        let mut left = most;
        let ranges = self.0.iter().map_while(|&(first, last)| {
            let taken = left.min(usize::from(last - first) + 1);
            left -= taken;
            // Not more than the range has, which is below 65536.
            (taken > 0).then(|| (first, first + (taken - 1) as u16))
        });
        Self(ranges.collect())
    }

    /// Lets a thread run on these CPUs only, and reads that back.
    pub fn give(&self, tid: Tid) -> Result<()> {
        self.give_to(tid, &whose(tid))
    }

    /// The same; `whose` is what messages call the thread.
    pub fn give_to(&self, tid: Tid, whose: &str) -> Result<()> {
        let (pid, set) = (Pid::from_raw(tid), self.set());
        let refused = |source: Errno| match source {
            Errno::INVAL => Error::Unavailable(format!(
                "{whose} cannot run on CPUs {self}: none of them is online and in the cpuset \
                 of its control group; see /sys/devices/system/cpu/online"
            )),
            _ => {
                let right = "; a thread of another user takes root or CAP_SYS_NICE";
                Error::refused(format!("give CPUs {self} to"), whose, source, right)
            }
        };
        sched_setaffinity(pid, &set).map_err(refused)?;
        if sched_getaffinity(pid).map_err(refused)? != set {
            return Err(Error::Unavailable(format!(
                "{whose} cannot run on CPUs {self}: not all of them are there; see \
                 /sys/devices/system/cpu/online and the cpuset of its control group"
            )));
        }
        Ok(())
    }

    fn set(&self) -> CpuSet {
        let mut set = CpuSet::new();
        for &(first, last) in &self.0 {
            (first..=last).for_each(|cpu| set.set(cpu.into()));
        }
        set
    }
}

/// The CPUs of some of the vCPUs: "0=0-3,1=4".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Affinity(BTreeMap<u8, CpuList>);

impl FromStr for Affinity {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut lists = BTreeMap::<u8, CpuList>::new();
        let mut current = None;
        for part in text.split(',') {
            // A part without a vCPU goes on with the list before it.
            let list = match part.split_once('=') {
                Some((vcpu, list)) => {
                    let vcpu: u8 = vcpu
                        .parse()
                        .map_err(|_| format!("{vcpu:?} is no vCPU's number in {text:?}"))?;
                    if lists.contains_key(&vcpu) {
                        return Err(format!("vCPU {vcpu} is there twice in {text:?}"));
                    }
                    current = Some(vcpu);
                    list
                }
                None => part,
            };
            let vcpu = current
                .ok_or_else(|| format!("{text:?} should be VCPU=CPUS,..., such as 0=0-3,1=4"))?;
            let CpuList(ranges) = list.parse()?;
            lists.entry(vcpu).or_default().0.extend(ranges);
        }
        Ok(Self(lists))
    }
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut comma = "";
        for (vcpu, list) in &self.0 {
            write!(f, "{comma}{vcpu}={list}")?;
            comma = ",";
        }
        Ok(())
    }
}

impl Affinity {
    /// Sees that a machine with `count` vCPUs has all that are named.
    pub fn check(&self, count: usize) -> Result<()> {
        match self.0.keys().find(|&&vcpu| usize::from(vcpu) >= count) {
            Some(vcpu) => Err(Error::Usage(format!(
                "--vcpu-affinity names vCPU {vcpu}: this machine has 0 to {}",
                count.saturating_sub(1)
            ))),
            None => Ok(()),
        }
    }

    /// The CPUs of each vCPU that is named.
    pub fn lists(&self) -> impl Iterator<Item = (u8, &CpuList)> {
        self.0.iter().map(|(&vcpu, list)| (vcpu, list))
    }

    /// Lets each of the vCPUs' threads run on its CPUs only, and reads that back.
    pub fn give(&self, vcpus: &[Tid]) -> Result<()> {
        self.check(vcpus.len())?;
        self.lists().try_for_each(|(vcpu, list)| {
            list.give_to(vcpus[usize::from(vcpu)], &format!("vCPU {vcpu}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_cut_in_its_order() {
        let list: CpuList = "0-3,8,10-11".parse().unwrap();
        assert_eq!(list.count(), 7);
        for (most, text) in [
            (2, "0-1"),
            (4, "0-3"),
            (5, "0-3,8"),
            (6, "0-3,8,10"),
            (9, "0-3,8,10-11"),
        ] {
            assert_eq!(list.first(most).to_string(), text);
        }
        assert_eq!(list.cpus().collect::<Vec<_>>(), [0, 1, 2, 3, 8, 10, 11]);
    }

    #[test]
    fn lists_go_on_behind_commas() {
        for text in ["0=0-3,1=4", "0=0,2-3,8,1=4", "7=1023"] {
            assert_eq!(text.parse::<Affinity>().unwrap().to_string(), text);
        }
        for bad in [
            "", "0", "0=", "=1", "0=3-1", "0=1,", "0=1,0=2", "256=1", "0=1024", "0=a", "0=-1",
        ] {
            assert!(bad.parse::<Affinity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn vcpus_that_are_not_there_are_refused() {
        let affinity: Affinity = "3=0".parse().unwrap();
        assert!(affinity.check(4).is_ok());
        assert!(affinity.check(3).is_err());
        assert!(affinity.give(&[0, 0, 0]).is_err());
    }

    #[test]
    fn what_a_thread_may_use_is_a_list() {
        let all = CpuList::of(0).unwrap();
        assert_eq!(all.to_string().parse(), Ok(all));
    }
}
