//! Assembles a machine.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use event_manager::MutEventSubscriber;
use kvm_bindings::{
    KVM_CAP_PMU_CAPABILITY, KVM_PIT_SPEAKER_DUMMY, KVM_PMU_CAP_DISABLE, kvm_enable_cap,
    kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, Kvm, VcpuFd, VmFd};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::brake::Brake;
use crate::bus::{Buses, Shared};
use crate::config::{Config, Pv, SchedConfig};
use crate::devices::balloon;
use crate::devices::block::{self, Disk};
use crate::devices::counters::{Counted, Counters};
use crate::devices::net::{self, Net};
use crate::devices::power::{self, Power, PowerButton};
use crate::devices::pvpanic::Pvpanic;
use crate::devices::rng;
use crate::devices::rtc::Rtc;
use crate::devices::serial::{self, Console, Input, Line, SerialPort, Watch};
use crate::devices::socket::Socket;
use crate::devices::virtio_mmio::{Complaints, Identity, Interrupt, Served, Session, VirtioMmio};
use crate::devices::vsock::{self, Vsock};
use crate::exit::Ender;
use crate::layout::{
    ACPI_PM, COM1, COM1_IRQ, KVM_IDENTITY_MAP, KVM_TSS, PVPANIC, RTC, SCI_IRQ, VIRTIO_MMIO,
    VIRTIO_MMIO_IRQ, VIRTIO_MMIO_SIZE,
};
use crate::memory::{self, GuestMemory};
use crate::resources::Resources;
use crate::sandbox::Sandbox;
use crate::sched::Launch;
use crate::{Error, Result, boot, cpuid};

/// A device's part that waits for events.
pub type Worker = Box<dyn MutEventSubscriber + Send>;

/// A machine that is ready to run.
pub struct Machine {
    /// Its vCPUs.
    pub vcpus: Vec<VcpuFd>,
    /// How they reach devices.
    pub buses: Arc<Buses>,
    /// What serves the virtio devices' queues.
    pub workers: Vec<Worker>,
    /// What all devices count, the console first.
    pub counted: Vec<Counted>,
    /// What brings the serial port its input, and takes its output on.
    pub console: Console,
    /// Whether the console is on standard input and output.
    pub on_stdio: bool,
    /// The file at which the console is found.
    pub console_socket: Option<Socket>,
    /// Asks the guest to shut down.
    pub power_button: PowerButton,
    /// How its threads are to run.
    pub sched: SchedConfig,
    /// Written when the guest says that it has started.
    pub started: EventFd,
    /// How long the guest may take to power off.
    pub stop_timeout: Duration,
    /// Who is told when the machine ends.
    pub ender: Ender,
    /// The file at which the host's programs find the guest.
    pub vsock_socket: Option<Socket>,
    /// What the process gives up before they run.
    pub sandbox: Sandbox,
    /// The paravirtual features that the guest sees.
    pub pv: Pv,
    /// Bytes of memory.
    pub mem: u64,
    /// The VM outlives all that refers to it.
    pub vm: VmFd,
    /// The guest's memory stays mapped as long as the VM is there.
    pub memory: GuestMemory,
}

/// Builds the machine that `config` describes out of what it names. When it fails,
/// nothing is left.
pub fn build(config: Config, mut resources: Resources) -> Result<Machine> {
    let kvm = Kvm::new().map_err(Error::kvm("be opened at /dev/kvm"))?;
    let most = kvm.get_max_vcpus();
    if usize::from(config.cpus) > most {
        return Err(Error::Refused(format!(
            "--cpus {}: KVM here gives a machine {most} at most",
            config.cpus
        )));
    }
    let memory = memory::allocate(config.mem)?;
    config.advice.give(&memory)?;
    let entry = boot::load(&memory, &config, &mut resources.images)?;
    let vm = create_vm(&kvm, &memory)?;

    let ender = Ender::new()?;
    let mut buses = Buses::default();
    let power_button = add_power(&vm, &mut buses, &ender)?;
    let started = event()?;
    let watch = watch(config.sched.launch.as_ref(), &started)?;
    let place = resources.console;
    let (on_stdio, console_socket) = (place.is_stdio(), place.socket);
    let console_counted = Counted {
        name: "console".into(),
        counters: Arc::default(),
    };
    let counters = console_counted.counters.clone();
    let line = Line::new(place.sink, watch, event()?, counters);
    let console = add_legacy_devices(&vm, &mut buses, &ender, line, place.input)?;
    let slots = Slots {
        vm: &vm,
        buses: &mut buses,
        memory: &memory,
        brake: ender.brake(),
        used: 0,
        counted: vec![console_counted],
    };
    let (vsock, vsock_socket) = resources.vsock.map(Vsock::split).unzip();
    let (workers, counted) = add_virtio(
        slots,
        resources.disks,
        resources.nets,
        vsock,
        (config.rng, config.reporting),
    )?;
    Ok(Machine {
        vcpus: create_vcpus(&kvm, &vm, &config, entry)?,
        buses: Arc::new(buses),
        workers,
        counted,
        console,
        on_stdio,
        console_socket,
        power_button,
        sched: config.sched,
        started,
        stop_timeout: config.stop_timeout,
        ender,
        vsock_socket,
        sandbox: resources.sandbox,
        pv: config.pv,
        mem: config.mem,
        vm,
        memory,
    })
}

fn create_vm(kvm: &Kvm, memory: &GuestMemory) -> Result<VmFd> {
    let vm = kvm.create_vm().map_err(Error::kvm("create a VM"))?;
    vm.set_tss_address(KVM_TSS)
        .and_then(|()| vm.set_identity_map_address(KVM_IDENTITY_MAP))
        .map_err(Error::kvm("place its own pages"))?;
    vm.create_irq_chip()
        .map_err(Error::kvm("create interrupt controllers"))?;
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(pit).map_err(Error::kvm("create a timer"))?;
    for (slot, region) in memory.iter().enumerate() {
        add_memory(&vm, memory, slot as u32, region.start_addr(), region.len())?;
    }
    Ok(vm)
}

fn add_memory(
    vm: &VmFd,
    memory: &GuestMemory,
    slot: u32,
    start: GuestAddress,
    length: u64,
) -> Result<()> {
    let host = memory
        .get_host_address(start)
        .map_err(|e| Error::Memory(e.to_string()))?;
    let region = kvm_userspace_memory_region {
        slot,
        guest_phys_addr: start.0,
        memory_size: length,
        userspace_addr: host as u64,
        flags: 0,
    };
    // SAFETY: the region is mapped by `memory`, which the machine keeps as long
    // as the VM, and no other slot overlaps it.
    unsafe { vm.set_user_memory_region(region) }.map_err(Error::kvm("take the guest's memory"))
}

fn event() -> Result<EventFd> {
    EventFd::new(EFD_NONBLOCK).map_err(Error::system("create an event"))
}

/// Who looks on the console for the guest's word that it has started.
fn watch(launch: Option<&Launch>, started: &EventFd) -> Result<Option<Watch>> {
    let Some(launch) = launch else {
        return Ok(None);
    };
    let started = started
        .try_clone()
        .map_err(Error::system("share an event"))?;
    Ok(Some(Watch::new(&launch.until, started)))
}

fn add_legacy_devices(
    vm: &VmFd,
    buses: &mut Buses,
    ender: &Ender,
    line: Line,
    input: Input,
) -> Result<Console> {
    let irq = event()?;
    vm.register_irqfd(&irq, COM1_IRQ)
        .map_err(Error::kvm("wire the serial port's interrupt"))?;
    let drained = event()?;
    let line = Arc::new(Mutex::new(line));
    let port = Arc::new(Mutex::new(SerialPort::new(irq, &drained, line.clone())?));
    let devices: [(u16, u64, Shared); 3] = [
        (COM1, serial::SIZE, port.clone()),
        (RTC, 2, Arc::new(Mutex::new(Rtc::default()))),
        (
            PVPANIC,
            1,
            Arc::new(Mutex::new(Pvpanic::new(ender.clone()))),
        ),
    ];
    for (start, size, device) in devices {
        buses.ports.add(start.into(), size, device);
    }
    Console::new((port, drained), line, input)
}

fn add_power(vm: &VmFd, buses: &mut Buses, ender: &Ender) -> Result<PowerButton> {
    let sci = event()?;
    vm.register_irqfd(&sci, SCI_IRQ.into())
        .map_err(Error::kvm("wire the power button's interrupt"))?;
    let power = Arc::new(Mutex::new(Power::new(ender.clone(), sci)));
    buses.ports.add(ACPI_PM.into(), power::SIZE, power.clone());
    Ok(PowerButton::new(power))
}

/// Adds the virtio devices: the disks, then the others. Linux finds them in this order.
fn add_virtio(
    mut slots: Slots,
    disks: Vec<Disk>,
    nets: Vec<Net>,
    vsock: Option<(u32, vsock::Muxer)>,
    (rng, balloon): (bool, bool),
) -> Result<(Vec<Worker>, Vec<Counted>)> {
    let mut workers: Vec<Worker> = Vec::new();
    for (n, disk) in disks.into_iter().enumerate() {
        let name = format!("disk{n}");
        let [queue] = slots.attach(&name, block::identity(&disk), [block::QUEUE_SIZE])?;
        workers.push(Box::new(block::Worker { disk, queue }));
    }
    for (n, net) in nets.into_iter().enumerate() {
        let (name, identity) = (format!("net{n}"), net::identity(&net));
        let [to_guest, from_guest] = slots.attach(&name, identity, net::QUEUE_SIZES)?;
        workers.push(Box::new(net::Worker::new(net.tap, to_guest, from_guest)));
    }
    if let Some((cid, muxer)) = vsock {
        let queues = slots.attach("vsock", vsock::identity(cid), vsock::QUEUE_SIZES)?;
        workers.push(Box::new(vsock::Worker::new(muxer, queues)));
    }
    if rng {
        let [queue] = slots.attach("rng", rng::identity(), [rng::QUEUE_SIZE])?;
        let source = rng::host;
        workers.push(Box::new(rng::Worker { queue, source }));
    }
    if balloon {
        let queues = slots.attach("balloon", balloon::identity(), balloon::QUEUE_SIZES)?;
        workers.push(Box::new(balloon::Worker::new(queues)));
    }
    Ok((workers, slots.counted))
}

/// The layout's places for virtio devices; `Config` asks for no more than there are.
struct Slots<'a> {
    vm: &'a VmFd,
    buses: &'a mut Buses,
    memory: &'a GuestMemory,
    brake: &'a Brake,
    used: u32,
    counted: Vec<Counted>,
}

impl Slots<'_> {
    /// Puts a device with queues of these sizes into the next slot.
    fn attach<const N: usize>(
        &mut self,
        name: &str,
        identity: Identity,
        sizes: [u16; N],
    ) -> Result<[Served; N]> {
        let irq = event()?;
        self.vm
            .register_irqfd(&irq, VIRTIO_MMIO_IRQ + self.used)
            .map_err(Error::kvm("wire a device's interrupt"))?;
        let interrupt = Arc::new(Interrupt::new(irq));
        let session = Arc::<Session>::default();
        let counters = Arc::<Counters>::default();
        self.counted.push(Counted {
            name: name.into(),
            counters: counters.clone(),
        });
        let (slot, kind) = (self.used, identity.device_type);
        let complaints = Arc::new(Complaints::new(format!(
            "virtio device {slot}, type {kind}"
        )));
        let address = VIRTIO_MMIO + u64::from(self.used) * VIRTIO_MMIO_SIZE;
        self.used += 1;
        let mut served = Vec::new();
        for (index, size) in (0u32..).zip(sizes) {
            let queue = Queue::new(size)
                .map_err(|e| Error::system("make a queue")(std::io::Error::other(e)))?;
            let notified = event()?;
            self.vm
                .register_ioevent(
                    &notified,
                    &IoEventAddress::Mmio(address + u64::from(VIRTIO_MMIO_QUEUE_NOTIFY)),
                    index,
                )
                .map_err(Error::kvm("wire a device's doorbell"))?;
            served.push(Served {
                queue: Arc::new(Mutex::new(queue)),
                interrupt: interrupt.clone(),
                session: session.clone(),
                notified,
                memory: self.memory.clone(),
                brake: self.brake.clone(),
                complaints: complaints.clone(),
                counters: counters.clone(),
            });
        }
        let queues = served.iter().map(|served| served.queue.clone()).collect();
        let device = Arc::new(Mutex::new(VirtioMmio::new(
            identity, queues, interrupt, session,
        )));
        self.buses.mmio.add(address, VIRTIO_MMIO_SIZE, device);
        // One was pushed for each size.
        served
            .try_into()
            .map_err(|_| Error::system("make a queue")(std::io::ErrorKind::Other))
    }
}

/// Where KVM can, it does nothing for performance counters that the guest doesn't see.
fn disable_pmu(vm: &VmFd) -> Result<()> {
    let can = vm.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into());
    if can & KVM_PMU_CAP_DISABLE as i32 == 0 {
        return Ok(());
    }
    let disable = kvm_enable_cap {
        cap: KVM_CAP_PMU_CAPABILITY,
        args: [KVM_PMU_CAP_DISABLE.into(), 0, 0, 0],
        ..Default::default()
    };
    vm.enable_cap(&disable)
        .map_err(Error::kvm("disable performance counters"))
}

fn create_vcpus(kvm: &Kvm, vm: &VmFd, config: &Config, entry: u64) -> Result<Vec<VcpuFd>> {
    let count = config.cpus;
    if !config.cpu.pmu.0 {
        disable_pmu(vm)?;
    }
    let features = cpuid::supported(kvm, config.pv, config.cpu)?;
    (0..count)
        .map(|id| {
            let fd = vm
                .create_vcpu(id.into())
                .map_err(Error::kvm("create a vCPU"))?;
            boot::prepare(&fd, &features, id, count, entry)?;
            Ok(fd)
        })
        .collect()
}
