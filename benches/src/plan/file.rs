//! A plan's file: what it may say, and in which line it says something wrong.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use checked_toml::{List, Source, different};
use dense_record::chosen::{
    Chosen, DiskMib, Guests, HostKernel, Layout, MemMib, Pcpus, Pinning, Pv, RoundNs, Seeds,
    ThirdParty, TimelineMs, Vcpus, WarmupMs, WindowMs, check_knob, check_name,
};
use dense_record::{Error, Result};
use serde::Deserialize;
use toml::Spanned;

/// The most memory and disk of all guests together, in MiB.
const MOST_MIB: u64 = 1 << 20;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    #[serde(default)]
    pub variant: Vec<Variant>,
    #[serde(default)]
    pub group: Vec<Group>,
}

/// Which host kernel, and how it is set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Variant {
    pub name: Spanned<String>,
    pub kernel: HostKernel,
    #[serde(default)]
    pub sysfs: BTreeMap<Spanned<String>, String>,
}

/// Cells of all combinations of what the lists have.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    #[serde(alias = "workloads")]
    workload: Spanned<List<String>>,
    guests: Spanned<List<Guests>>,
    vcpus: Vcpus,
    pcpus: Pcpus,
    mem_mib: Spanned<MemMib>,
    disk_mib: DiskMib,
    warmup_ms: WarmupMs,
    window_ms: WindowMs,
    #[serde(alias = "variant")]
    variants: Spanned<List<String>>,
    cgroups: Option<Spanned<List<Layout>>>,
    pinning: Option<Spanned<List<Pinning>>>,
    pv: Option<Spanned<List<Pv>>>,
    class: Option<Spanned<List<String>>>,
    third_party: Option<Spanned<List<ThirdParty>>>,
    timeline_ms: Option<Spanned<TimelineMs>>,
    round_ns: Spanned<List<RoundNs>>,
    pub seeds: Seeds,
}

/// Something wrong at a place.
type Wrong = (Range<usize>, String);

/// Reads a plan; `known` are the variants that it may name beside its own.
pub(super) fn parse(name: &str, text: &str, known: &[Variant]) -> Result<Plan> {
    let source = Source { name, text };
    let mut plan: Plan = source.read().map_err(Error::Invalid)?;
    plan.check(known)
        .map_err(|(at, what)| Error::Invalid(source.wrong(at, &what)))?;
    let others = known.iter().filter(|k| !plan.has(k.name.get_ref()));
    let others: Vec<Variant> = others.cloned().collect();
    plan.variant.extend(others);
    Ok(plan)
}

impl Plan {
    /// What no single value shows.
    fn check(&self, known: &[Variant]) -> std::result::Result<(), Wrong> {
        for (number, variant) in self.variant.iter().enumerate() {
            let name = variant.name.get_ref();
            let at = |e: Error| (variant.name.span(), e.to_string());
            check_name("name", name).map_err(at)?;
            if self.variant[..number]
                .iter()
                .any(|v| v.name.get_ref() == name)
            {
                return Err((
                    variant.name.span(),
                    format!("variant {name} is there twice"),
                ));
            }
            for path in variant.sysfs.keys() {
                let at = |e: Error| (path.span(), e.to_string());
                check_knob(Path::new(path.get_ref())).map_err(at)?;
            }
        }
        let own = self.variant.iter().map(|v| v.name.get_ref().as_str());
        let others = known.iter().map(|v| v.name.get_ref().as_str());
        let others = others.filter(|name| !self.has(name));
        let names: Vec<&str> = own.chain(others).collect();
        self.group.iter().try_for_each(|group| group.check(&names))
    }

    fn has(&self, variant: &str) -> bool {
        self.variant.iter().any(|v| v.name.get_ref() == variant)
    }
}

impl Group {
    fn check(&self, variants: &[&str]) -> std::result::Result<(), Wrong> {
        list(&self.guests)?;
        list(&self.round_ns)?;
        self.cgroups.iter().try_for_each(list)?;
        self.pinning.iter().try_for_each(list)?;
        self.pv.iter().try_for_each(list)?;
        self.third_party.iter().try_for_each(list)?;
        names("workload", &self.workload)?;
        self.class
            .iter()
            .try_for_each(|class| names("class", class))?;
        list(&self.variants)?;
        for name in &self.variants.get_ref().0 {
            if !variants.contains(&name.as_str()) {
                let there = variants.join(", ");
                let what = format!("no variant is called {name}; there are: {there}");
                return Err((self.variants.span(), what));
            }
        }
        if let Some(timeline_ms) = &self.timeline_ms
            && timeline_ms.get_ref().get() > self.window_ms.get()
        {
            return Err((timeline_ms.span(), "it is a part of the window".into()));
        }
        let guests = self.guests.get_ref().0.iter().map(|g| g.get());
        let each = self.mem_mib.get_ref().get() + self.disk_mib.get();
        let host = guests.max().unwrap_or(0) * each;
        if host > MOST_MIB {
            let what = format!("the guests' memory and disks are {host} MiB: at most {MOST_MIB}");
            return Err((self.mem_mib.span(), what));
        }
        Ok(())
    }

    /// A seed's cells: all combinations, variants next to one another. `all` has what the
    /// names of variants mean.
    pub fn cells(&self, seed: u64, all: &[Variant]) -> Vec<Chosen> {
        let one = Chosen {
            vcpus: self.vcpus.get() as u32,
            pcpus: self.pcpus.get() as u32,
            mem_mib: self.mem_mib.get_ref().get() as u32,
            disk_mib: self.disk_mib.get() as u32,
            warmup_ms: self.warmup_ms.get(),
            window_ms: self.window_ms.get(),
            timeline_ms: self.timeline_ms.as_ref().map_or(0, |ms| ms.get_ref().get()),
            seed,
            ..Chosen::default()
        };
        let cells = each(vec![one], Some(&self.workload), |c, w| {
            c.workload.clone_from(w)
        });
        let cells = each(cells, Some(&self.guests), |c, n| c.guests = n.get() as u32);
        let cells = each(cells, Some(&self.round_ns), |c, ns| c.round_ns = ns.get());
        let cells = each(cells, self.cgroups.as_ref(), |c, layout| {
            c.cgroups = *layout
        });
        let cells = each(cells, self.pinning.as_ref(), |c, pinning| {
            c.pinning = *pinning
        });
        let cells = each(cells, self.pv.as_ref(), |c, pv| c.pv = *pv);
        let cells = each(cells, self.class.as_ref(), |c, class| {
            c.class.clone_from(class)
        });
        let cells = each(cells, self.third_party.as_ref(), |c, third| {
            c.third_party = *third
        });
        each(cells, Some(&self.variants), |cell, name| {
            if let Some(variant) = all.iter().find(|v| v.name.get_ref() == name) {
                variant.set(cell);
            }
        })
    }
}

impl Variant {
    fn set(&self, cell: &mut Chosen) {
        cell.variant.clone_from(self.name.get_ref());
        cell.host_kernel = self.kernel;
        let files = self.sysfs.iter();
        cell.sysfs = files
            .map(|(path, v)| (path.get_ref().into(), v.clone()))
            .collect();
    }
}

/// All cells with each value in turn; a plan that says none leaves them as they are.
fn each<T>(
    cells: Vec<Chosen>,
    values: Option<&Spanned<List<T>>>,
    set: impl Fn(&mut Chosen, &T),
) -> Vec<Chosen> {
    let Some(values) = values else { return cells };
    let with = |cell: &Chosen, value: &T| {
        let mut cell = cell.clone();
        set(&mut cell, value);
        cell
    };
    let values = &values.get_ref().0;
    let all = cells
        .iter()
        .flat_map(|cell| values.iter().map(move |v| (cell, v)));
    all.map(|(cell, value)| with(cell, value)).collect()
}

fn list<T: PartialEq>(list: &Spanned<List<T>>) -> std::result::Result<(), Wrong> {
    different(&list.get_ref().0).map_err(|what| (list.span(), what))
}

fn names(what: &str, words: &Spanned<List<String>>) -> std::result::Result<(), Wrong> {
    list(words)?;
    let mut all = words.get_ref().0.iter();
    let checked = all.try_for_each(|word| check_name(what, word));
    checked.map_err(|e| (words.span(), e.to_string()))
}
