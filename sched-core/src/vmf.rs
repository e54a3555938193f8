//! VMF, "VM first": the queue and the charging of a class between RT and fair.
//!
//! Tasks have a [`Kind`], not a priority. Each has a *vtime*: what it has run, weighted so
//! that VMs, not vCPUs, get equal shares of a CPU. The least vtime runs, for a slice at a
//! time. A VMF task that wakes up pre-empts fair at once and is never pre-empted by it; that
//! needs no arithmetic. The fair server keeps a floor for fair: see [`fair_longest_wait`].
//!
//! Source: design section 4.4, kernel-notes C2. The kernel's class is not written yet: this
//! is its specification. Vtimes are ns, compared by signed difference; what is queued must
//! lie within 2^63 of each other, which [`Queue::place`] sees to.

/// What a vCPU runs before the next one is looked for, ns (`kernel.sched_vmf_slice_us`).
pub const SLICE: u64 = 2_000_000;

/// A vCPU that wakes up must be this much behind, in ns of vtime, to pre-empt another: or
/// vCPUs that wake each other would only switch.
pub const WAKE_MARGIN: u64 = 50_000;

/// How far, in ns of vtime, a helper that wakes up may be ahead of the queue and still
/// pre-empt a vCPU: its short burst.
pub const HELPER_BURST: u64 = 200_000;

/// Fair's floor: ns of service in [`FAIR_PERIOD`] (the deadline fair server's runtime).
pub const FAIR_RUNTIME: u64 = 5_000_000;

/// The period of fair's floor, ns.
pub const FAIR_PERIOD: u64 = 100_000_000;

/// The longest that fair waits for a CPU that VMF keeps busy, ns: period - runtime, as the
/// deferred server steps in when what is left of the period is just its runtime (zero
/// laxity). VMF in turn waits for `runtime` at most.
pub fn fair_longest_wait(runtime: u64, period: u64) -> u64 {
    period.saturating_sub(runtime)
}

/// What a task is for a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It runs guest code.
    Vcpu,
    /// It does the VM's I/O: charged half.
    Helper,
}

/// A queued or running task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// Its name.
    pub id: u32,
    /// Its VM's name.
    pub vm: u32,
    /// What it is for.
    pub kind: Kind,
    /// What it has been charged, ns.
    pub vtime: u64,
}

impl Task {
    /// Charges `ran` ns of service: vtime += ran * siblings, half of it for a helper.
    ///
    /// `siblings`: the VM's vCPUs on this CPU, running or queued, at least 1. With equal
    /// vtimes each VM has then had the same service, whatever the number of its vCPUs.
    /// `ran` is by time stamp at every switch, tick and yield, never by ticks counted: who
    /// sleeps before each tick pays all the same.
    pub fn charge(&mut self, ran: u64, siblings: u32) {
        let charged = ran.wrapping_mul(u64::from(siblings.max(1)));
        let charged = match self.kind {
            Kind::Vcpu => charged,
            Kind::Helper => charged >> 1,
        };
        self.vtime = self.vtime.wrapping_add(charged);
    }

    /// Does this task, waking up, pre-empt the running one? A vCPU if it is more than
    /// [`WAKE_MARGIN`] behind; a helper any vCPU, within its burst: not if it is more than
    /// [`HELPER_BURST`] ahead of `min_vtime`.
    pub fn preempts(&self, current: &Self, min_vtime: u64) -> bool {
        if (self.kind, current.kind) == (Kind::Helper, Kind::Vcpu) {
            return ahead(self.vtime, min_vtime) <= HELPER_BURST as i64;
        }
        ahead(current.vtime, self.vtime) > WAKE_MARGIN as i64
    }
}

/// How far a VM has got on one CPU by its tasks of each kind, ns of vtime.
///
/// A task that becomes runnable there begins no earlier. With a sleeper's credit each, vCPUs
/// of one VM that wake up by turns would take nearly all of a CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    vcpus: u64,
    helpers: u64,
}

impl Account {
    /// Notes what a task of the VM, on this CPU, has just been charged.
    pub fn note(&mut self, task: &Task) {
        match task.kind {
            Kind::Vcpu => self.vcpus = task.vtime,
            Kind::Helper => self.helpers = task.vtime,
        }
    }

    fn reached(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Vcpu => self.vcpus,
            Kind::Helper => self.helpers,
        }
    }
}

/// a - b, signed.
fn ahead(a: u64, b: u64) -> i64 {
    a.wrapping_sub(b) as i64
}

/// The queue has no room: a task is not enqueued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// A CPU's queue, the running task not in it: at most `N` tasks by vtime, the first come of
/// equals first. The kernel keeps the same order in a tree.
#[derive(Debug, Clone)]
pub struct Queue<const N: usize> {
    tasks: [Option<Task>; N],
    len: usize,
    min_vtime: u64,
    next: Option<u32>,
}

impl<const N: usize> Default for Queue<N> {
    fn default() -> Self {
        Self {
            tasks: [None; N],
            len: 0,
            min_vtime: 0,
            next: None,
        }
    }
}

impl<const N: usize> Queue<N> {
    /// Tasks queued.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is nobody queued?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A vtime that only grows: no task of this CPU is far below it.
    pub fn min_vtime(&self) -> u64 {
        self.min_vtime
    }

    /// Tasks in the order in which they would run.
    pub fn iter(&self) -> impl Iterator<Item = &Task> {
        self.tasks[..self.len].iter().flatten()
    }

    /// Gives a task that wakes up, or comes from a CPU whose minimum was `from_min`, its
    /// place: vtime = max(own, minimum - slice) by this queue's measure, and no less than its
    /// VM's `account` on this CPU. A sleeper so gets credit for one slice at most, a VM for one
    /// slice, and no CPU's history counts on another.
    pub fn place(&self, task: &mut Task, from_min: u64, account: &Account) {
        let lead = ahead(task.vtime, from_min).max(-(SLICE as i64));
        let vtime = self.min_vtime.wrapping_add(lead as u64);
        let behind = ahead(account.reached(task.kind), vtime).max(0);
        task.vtime = vtime.wrapping_add(behind as u64);
    }

    /// Enqueues a task.
    pub fn enqueue(&mut self, task: Task) -> Result<(), Full> {
        if self.len == N {
            return Err(Full);
        }
        let behind = |t: &Task| ahead(t.vtime, task.vtime) <= 0;
        let at = self.iter().take_while(|t| behind(t)).count();
        self.tasks[at..=self.len].rotate_right(1);
        self.tasks[at] = Some(task);
        self.len += 1;
        Ok(())
    }

    /// Takes a task out, also as the next one to run.
    pub fn dequeue(&mut self, id: u32) -> Option<Task> {
        let at = self.iter().position(|t| t.id == id)?;
        let task = self.tasks[at].take();
        self.tasks[at..self.len].rotate_left(1);
        self.len -= 1;
        if self.next == Some(id) {
            self.next = None;
        }
        task
    }

    /// Who runs next: whom somebody yielded to while that one is at most [`SLICE`] of vtime
    /// ahead of the least, else the least. Changes nothing, as the kernel may pick and think
    /// again.
    ///
    /// Bound: two vCPUs that yield to each other all the time would keep the CPU for good
    /// without it. With it, of n tasks, the largest VM having s of them, whoever is queued
    /// runs within n * (6 + 2 * s) slices.
    pub fn pick(&self) -> Option<&Task> {
        let first = self.tasks.first().and_then(Option::as_ref)?;
        let hint = self.next.and_then(|id| self.iter().find(|t| t.id == id));
        let near = |t: &&Task| ahead(t.vtime, first.vtime) <= SLICE as i64;
        hint.filter(near).or(Some(first))
    }

    /// The pick begins to run: it leaves the queue.
    pub fn run_next(&mut self) -> Option<Task> {
        let id = self.pick()?.id;
        self.dequeue(id)
    }

    /// Is the running task, after `ran` ns in a row, to make room? After a slice, if somebody
    /// with no more vtime waits.
    pub fn slice_over(&self, running: &Task, ran: u64) -> bool {
        let waits = |first: &Task| ahead(first.vtime, running.vtime) <= 0;
        ran >= SLICE && self.pick().is_some_and(waits)
    }

    /// Moves the minimum up to the least vtime of all, the running task's included; it never
    /// goes down.
    pub fn update_min(&mut self, running: Option<&Task>) {
        let least = self
            .iter()
            .next()
            .into_iter()
            .chain(running)
            .map(|t| ahead(t.vtime, self.min_vtime))
            .min();
        self.min_vtime = self
            .min_vtime
            .wrapping_add(least.unwrap_or(0).max(0) as u64);
    }

    /// The running task yields to `target` of its VM: target runs next, and if it was behind
    /// in turn, vtime changes hands: L = clamp(v_T - v_Y, 0, slice) + 1, Y pays it, T gets it.
    /// The sum of vtimes stays, so no third task's share changes. Returns L, `None` if the
    /// target is not queued here or of another VM.
    pub fn yield_to(&mut self, yielder: &mut Task, target: u32) -> Option<u64> {
        let found = self.iter().find(|t| t.id == target)?;
        if found.vm != yielder.vm {
            return None;
        }
        let mut task = self.dequeue(target)?;
        let gap = ahead(task.vtime, yielder.vtime).clamp(0, SLICE as i64);
        let amount = gap as u64 + 1;
        yielder.vtime = yielder.vtime.wrapping_add(amount);
        task.vtime = task.vtime.wrapping_sub(amount);
        // There is room: it was just taken out.
        let _ = self.enqueue(task);
        self.next = Some(target);
        Some(amount)
    }
}
