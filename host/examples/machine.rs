//! A VM without a guest, for tests: a process with a VM and vCPUs of KVM, whose threads
//! have the names that are given, and wait until standard input ends. Behind "-- statistics" it
//! keeps KVM's statistics files of its vCPUs open, as vmm and newer QEMU do.

use std::io::Read;
use std::os::fd::AsRawFd;

/// `_IO(KVMIO, 0xce)`
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;

fn main() {
    let names: Vec<String> = std::env::args()
        .skip(1)
        .take_while(|name| name != "--")
        .collect();
    let kvm = kvm_ioctls::Kvm::new().expect("KVM");
    let vm = kvm.create_vm().expect("a VM");
    let vcpus: Vec<_> = (0..names.len() as u64)
        .map(|n| vm.create_vcpu(n).expect("a vCPU"))
        .collect();
    if std::env::args().any(|word| word == "statistics") {
        for vcpu in &vcpus {
            // SAFETY: the request takes no argument; the descriptor that it returns stays open.
            let fd = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_STATS_FD) };
            assert!(fd >= 0, "no statistics");
        }
    }
    let (started, starts) = std::sync::mpsc::channel();
    for name in &names {
        let started = started.clone();
        let thread = std::thread::Builder::new().name(name.clone());
        // A thread that runs has its name.
        let wait = move || {
            let _ = started.send(());
            loop {
                std::thread::park();
            }
        };
        thread.spawn(wait).expect("a thread");
    }
    names
        .iter()
        .for_each(|_| starts.recv().expect("a thread that runs"));
    println!("ready");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(vcpus);
}
