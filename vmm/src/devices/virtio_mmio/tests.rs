use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;

const ACKNOWLEDGE_AND_DRIVER: u32 = 3;

fn transport() -> VirtioMmio {
    let identity = Identity {
        device_type: 2,
        features: 1 << 9,
        config: vec![1, 2, 3],
    };
    let queue = Arc::new(Mutex::new(Queue::new(256).unwrap()));
    let irq = EventFd::new(EFD_NONBLOCK).unwrap();
    VirtioMmio::new(
        identity,
        vec![queue],
        Arc::new(Interrupt::new(irq)),
        Arc::default(),
    )
}

fn read(device: &mut VirtioMmio, offset: u64) -> u32 {
    let mut data = [0; 4];
    device.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn write(device: &mut VirtioMmio, offset: u64, value: u32) {
    device.write(offset, &value.to_le_bytes());
}

#[test]
fn a_driver_finds_the_device() {
    let mut device = transport();
    assert_eq!(read(&mut device, 0), 0x7472_6976);
    assert_eq!(read(&mut device, 4), 2);
    assert_eq!(read(&mut device, 8), 2);
    assert_eq!(read(&mut device, 0x34), 256);
    assert_eq!(read(&mut device, 0x100), 0x0003_0201);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let mut device = transport();
    write(&mut device, 0x24, 1);
    write(&mut device, 0x20, 1);
    write(&mut device, 0x24, 0);
    write(&mut device, 0x20, 1 << 10);
    write(
        &mut device,
        0x70,
        ACKNOWLEDGE_AND_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK,
    );
    assert_eq!(read(&mut device, 0x70), ACKNOWLEDGE_AND_DRIVER);
}

#[test]
fn a_driver_of_version_1_is_accepted() {
    let mut device = transport();
    write(&mut device, 0x24, 1);
    write(&mut device, 0x20, 1);
    let status = ACKNOWLEDGE_AND_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
    write(&mut device, 0x70, status);
    assert_eq!(read(&mut device, 0x70), status);
    let agreed = device.session.now();
    assert_eq!(agreed.features, 1 << 32);
    write(&mut device, 0x70, 0);
    assert_eq!(read(&mut device, 0x70), 0);
    // The next driver's session is another one, even with the same features.
    assert_eq!(device.session.now().features, 0);
    device.session.agree(1 << 32);
    assert_ne!(device.session.now(), agreed);
}

#[test]
fn a_ready_queue_keeps_its_addresses() {
    let mut device = transport();
    write(&mut device, 0x80, 0x1000);
    write(&mut device, 0x44, 1);
    write(&mut device, 0x80, 0x2000);
    assert_eq!(lock(&device.queues[0]).desc_table(), 0x1000);
}

#[test]
fn registers_that_are_not_there_do_no_harm() {
    let mut device = transport();
    write(&mut device, 0x30, u32::MAX);
    for offset in (0..0x1000).step_by(4) {
        write(&mut device, offset, u32::MAX);
        read(&mut device, offset);
    }
    device.write(0x70, &[1]);
    device.read(0xfff, &mut [0; 8]);
}

#[test]
fn an_interrupt_is_acknowledged_bit_by_bit() {
    let mut device = transport();
    device.interrupt.used_buffers();
    assert_eq!(read(&mut device, 0x60), 1);
    write(&mut device, 0x64, 2);
    assert_eq!(read(&mut device, 0x60), 1);
    write(&mut device, 0x64, 1);
    assert_eq!(read(&mut device, 0x60), 0);
}
