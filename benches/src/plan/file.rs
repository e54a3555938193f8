//! A plan's file: what it may say, and in which line it says something wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{I64Deserializer, SeqAccessDeserializer, StrDeserializer};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use toml::Spanned;

use super::Variant;
use crate::spec::{Layout, Pinning, Pv, ThirdParty, check_knob, check_name, check_range, fair};
use crate::{Error, Result};

/// The file as it is written.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    variant: Vec<RawVariant>,
    #[serde(default)]
    group: Vec<RawGroup>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVariant {
    name: Spanned<String>,
    kernel: super::HostKernel,
    #[serde(default)]
    sysfs: BTreeMap<Spanned<String>, String>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    #[serde(alias = "workloads")]
    workload: Spanned<List<String>>,
    guests: Spanned<List<u32>>,
    vcpus: Spanned<u32>,
    pcpus: Spanned<u32>,
    mem_mib: Spanned<u32>,
    disk_mib: Spanned<u32>,
    warmup_ms: Spanned<u64>,
    window_ms: Spanned<u64>,
    #[serde(alias = "variant")]
    variants: Spanned<List<String>>,
    cgroups: Option<Spanned<List<Layout>>>,
    pinning: Option<Spanned<List<Pinning>>>,
    pv: Option<Spanned<List<Pv>>>,
    class: Option<Spanned<List<String>>>,
    third_party: Option<Spanned<List<ThirdParty>>>,
    timeline_ms: Option<Spanned<u64>>,
    round_ns: Spanned<List<u64>>,
    seeds: Spanned<u64>,
}

/// A plan whose every value is in range.
#[derive(Debug)]
pub(super) struct Plan {
    pub groups: Vec<Group>,
    pub variants: Vec<Variant>,
}

/// Cells of all combinations of what the lists have.
#[derive(Debug)]
pub(super) struct Group {
    pub workloads: Vec<String>,
    pub guests: Vec<u32>,
    pub vcpus: u32,
    pub pcpus: u32,
    pub mem_mib: u32,
    pub disk_mib: u32,
    pub warmup_ms: u64,
    pub window_ms: u64,
    pub variants: Vec<Variant>,
    pub cgroups: Vec<Layout>,
    pub pinning: Vec<Pinning>,
    pub pv: Vec<Pv>,
    pub classes: Vec<String>,
    pub third_party: Vec<ThirdParty>,
    pub timeline_ms: u64,
    pub round_ns: Vec<u64>,
    pub seeds: u64,
}

/// Reads a plan; `known` are the variants that it may name beside its own.
pub(super) fn parse(name: &str, text: &str, known: &[Variant]) -> Result<Plan> {
    let source = Source { name, text };
    let raw: Raw = toml::from_str(text).map_err(|e| {
        let start = e.span().map_or(0, |span| span.start);
        source.wrong_at(start, e.message().replace('\n', ", "))
    })?;
    let mut variants = Vec::new();
    for variant in raw.variant {
        if has(&variants, variant.name.get_ref()) {
            let what = format!("variant {} is there twice", variant.name.get_ref());
            return Err(source.wrong(&variant.name, what));
        }
        variants.push(source.variant(variant)?);
    }
    let others = known.iter().filter(|k| !has(&variants, &k.name)).cloned();
    variants.extend(others.collect::<Vec<_>>());
    let groups = raw.group.into_iter().map(|g| source.group(g, &variants));
    Ok(Plan {
        groups: groups.collect::<Result<_>>()?,
        variants,
    })
}

fn has(variants: &[Variant], name: &str) -> bool {
    variants.iter().any(|v| v.name == name)
}

/// The text, to tell lines.
struct Source<'a> {
    name: &'a str,
    text: &'a str,
}

impl Source<'_> {
    /// The error that something is wrong where `at` is.
    fn wrong<T>(&self, at: &Spanned<T>, what: impl fmt::Display) -> Error {
        self.wrong_at(at.span().start, what)
    }

    fn wrong_at(&self, start: usize, what: impl fmt::Display) -> Error {
        let before = self.text.get(..start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Error::Invalid(format!("plan {}, line {line}: {what}", self.name))
    }

    fn variant(&self, raw: RawVariant) -> Result<Variant> {
        check_name("name", raw.name.get_ref()).map_err(|e| self.wrong(&raw.name, e))?;
        let mut sysfs = Vec::new();
        for (path, value) in raw.sysfs {
            check_knob(path.get_ref().as_ref()).map_err(|e| self.wrong(&path, e))?;
            sysfs.push((path.into_inner().into(), value));
        }
        Ok(Variant {
            name: raw.name.into_inner(),
            kernel: raw.kernel,
            sysfs,
        })
    }

    fn group(&self, raw: RawGroup, variants: &[Variant]) -> Result<Group> {
        let group = Group {
            vcpus: self.number("vcpus", &raw.vcpus)?,
            pcpus: self.number("pcpus", &raw.pcpus)?,
            mem_mib: self.number("mem_mib", &raw.mem_mib)?,
            disk_mib: self.number("disk_mib", &raw.disk_mib)?,
            warmup_ms: self.number("warmup_ms", &raw.warmup_ms)?,
            window_ms: self.number("window_ms", &raw.window_ms)?,
            seeds: self.number("seeds", &raw.seeds)?,
            variants: self.variants(&raw.variants, variants)?,
            cgroups: self.optional("cgroups", raw.cgroups, Layout::Flat)?,
            pinning: self.optional("pinning", raw.pinning, Pinning::None)?,
            pv: self.optional("pv", raw.pv, Pv::None)?,
            classes: match raw.class {
                Some(list) => self.names("class", &list)?,
                None => vec![fair()],
            },
            third_party: self.optional("third_party", raw.third_party, ThirdParty::None)?,
            timeline_ms: match raw.timeline_ms {
                Some(time) => self.number("timeline_ms", &time)?,
                None => 0,
            },
            workloads: self.names("workload", &raw.workload)?,
            round_ns: self.numbers("round_ns", &raw.round_ns)?,
            guests: self.numbers("guests", &raw.guests)?,
        };
        let most = group.guests.iter().copied().max().unwrap_or(0);
        let each = u64::from(group.mem_mib) + u64::from(group.disk_mib);
        let host = u64::from(most) * each;
        if host > 1 << 20 {
            let what = format!("the guests' memory and disks are {host} MiB: at most 1048576");
            return Err(self.wrong(&raw.mem_mib, what));
        }
        Ok(group)
    }

    fn number<T: Copy + Into<u64>>(&self, name: &str, value: &Spanned<T>) -> Result<T> {
        check_range(name, (*value.get_ref()).into()).map_err(|e| self.wrong(value, e))?;
        Ok(*value.get_ref())
    }

    fn numbers<T>(&self, name: &str, list: &Spanned<List<T>>) -> Result<Vec<T>>
    where
        T: Copy + Into<u64> + PartialEq,
    {
        for value in &list.get_ref().0 {
            check_range(name, (*value).into()).map_err(|e| self.wrong(list, e))?;
        }
        self.list(name, list)
    }

    fn names(&self, name: &str, list: &Spanned<List<String>>) -> Result<Vec<String>> {
        for value in &list.get_ref().0 {
            check_name(name, value).map_err(|e| self.wrong(list, e))?;
        }
        self.list(name, list)
    }

    fn optional<T: Clone + PartialEq>(
        &self,
        name: &str,
        list: Option<Spanned<List<T>>>,
        default: T,
    ) -> Result<Vec<T>> {
        list.map_or(Ok(vec![default]), |list| self.list(name, &list))
    }

    /// The values: at least one, at most 64, none twice.
    fn list<T: Clone + PartialEq>(&self, name: &str, list: &Spanned<List<T>>) -> Result<Vec<T>> {
        let values = &list.get_ref().0;
        let twice = (1..values.len()).any(|i| values[..i].contains(&values[i]));
        if twice || !(1..=64).contains(&values.len()) {
            let what = format!("{name}: from 1 to 64 different values");
            return Err(self.wrong(list, what));
        }
        Ok(values.clone())
    }

    fn variants(&self, names: &Spanned<List<String>>, all: &[Variant]) -> Result<Vec<Variant>> {
        let find = |name: &String| {
            all.iter()
                .find(|v| v.name == *name)
                .cloned()
                .ok_or_else(|| {
                    let there: Vec<_> = all.iter().map(|v| v.name.as_str()).collect();
                    let there = there.join(", ");
                    self.wrong(
                        names,
                        format!("no variant is called {name}; there are: {there}"),
                    )
                })
        };
        self.list("variants", names)?.iter().map(find).collect()
    }
}

/// Several values, or one without brackets.
#[derive(Debug)]
struct List<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct OneOrMany<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a list of values")
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> std::result::Result<List<T>, E> {
                let one = T::deserialize(I64Deserializer::new(value))?;
                Ok(List(vec![one]))
            }

            fn visit_str<E: serde::de::Error>(
                self,
                value: &str,
            ) -> std::result::Result<List<T>, E> {
                let one = T::deserialize(StrDeserializer::new(value))?;
                Ok(List(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                seq: A,
            ) -> std::result::Result<List<T>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(List)
            }
        }
        deserializer.deserialize_any(OneOrMany(PhantomData))
    }
}
