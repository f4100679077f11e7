//! The device as the daemon asks for it: features, configuration space, memory.
use crate::carried::Carried;
use crate::logging::{LOG_ALL, Logging};
use crate::ring::Ring;
use crate::state::Transfer;
use crate::{EventSink, Memory, Port, PortEvent};
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use vhost::vhost_user::message::{VhostTransferStateDirection, VhostTransferStatePhase, VhostUserProtocolFeatures};
use vhost_user_backend::VhostUserBackend;
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vonic_queue::MemoryMap;
use vonic_record::{Whom, vm_number, work_for};

/// The largest ring: what QEMU, cloud-hypervisor and DPDK ask for at most.
const RING_MAX: usize = 1024;
/// VIRTIO_NET_F_CTRL_VQ: there is a queue behind the pairs (virtio 1.3 §5.1.2).
const CTRL_VQ: u64 = 1 << 17;
/// VIRTIO_NET_S_LINK_UP (virtio 1.3 §5.1.4).
const LINK_UP: u16 = 1;

/// One VM's device.
pub struct Backend<S> {
    port: Arc<Port<S>>,
    logging: Mutex<Logging>,
    transfer: Mutex<Option<Transfer>>,
}

impl<S: EventSink> Backend<S> {
    pub fn new(port: Arc<Port<S>>) -> Backend<S> {
        Backend { port, logging: Mutex::default(), transfer: Mutex::default() }
    }

    /// Changes what is logged; where that makes a difference, waits until it is in force. The VMM clears and copies pages by what it
    /// was answered.
    fn log(&self, change: impl FnOnce(&mut Logging) -> io::Result<bool>) -> io::Result<()> {
        let mut logging = self.logging.lock().unwrap_or_else(PoisonError::into_inner);
        if !change(&mut logging)? {
            return Ok(());
        }
        let (log, used) = logging.effective();
        drop(logging);
        self.port.emit_and_wait(|done| PortEvent::Log { log, used, done })
    }

    /// Logs by what the VMM has acknowledged.
    fn switch_log(&self, features: u64) {
        if let Err(error) = self.log(|logging| Ok(logging.switch(features))) {
            self.port.warn(&format!("the worker did not take to the dirty log: {error}"));
        }
    }

    /// The configuration space of virtio 1.3 §5.1.4: mac, status, max_virtqueue_pairs, mtu.
    fn config(&self) -> [u8; 12] {
        let spec = &self.port.spec;
        let mut space = [0; 12];
        space[..6].copy_from_slice(&spec.mac);
        space[6..8].copy_from_slice(&LINK_UP.to_le_bytes());
        space[8..10].copy_from_slice(&spec.queue_pairs.to_le_bytes());
        space[10..12].copy_from_slice(&spec.mtu.to_le_bytes());
        space
    }
}

impl<S: EventSink> VhostUserBackend for Backend<S> {
    type Bitmap = ();
    type Vring = Ring<S>;

    fn num_queues(&self) -> usize {
        let control = self.port.spec.features & CTRL_VQ != 0;
        usize::from(self.port.spec.queue_pairs) * 2 + usize::from(control)
    }

    fn max_queue_size(&self) -> usize {
        RING_MAX
    }

    /// The front asks for them before the VMM says anything: from here on this thread works for it.
    fn features(&self) -> u64 {
        work_for(Whom::Vm(vm_number(&self.port.spec.name)));
        self.port.spec.features | LOG_ALL
    }

    fn acked_features(&self, features: u64) {
        self.port.emit(PortEvent::Features(features & !LOG_ALL));
        self.switch_log(features);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::LOG_SHMFD
            | VhostUserProtocolFeatures::RARP
            | VhostUserProtocolFeatures::DEVICE_STATE
    }

    fn reset_device(&self) {
        self.port.reset();
        self.switch_log(0);
        self.port.emit(PortEvent::Reset);
    }

    // Each ring is told by itself.
    fn set_event_idx(&self, _enabled: bool) {}

    /// Bytes beyond the configuration space read as 0.
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let space = self.config();
        (0..size as usize).map(|i| space.get(offset as usize + i).copied().unwrap_or(0)).collect()
    }

    /// Nothing of the space is the driver's to write: whatever comes is the front's.
    fn set_config(&self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        match Carried::read(offset, bytes).ok_or(io::ErrorKind::InvalidData)? {
            Carried::LogBase { file, len, offset } => self.log(|logging| logging.set_log(file, offset, len)),
            Carried::UsedLog { ring, address } if (ring as usize) < self.num_queues() => {
                self.log(|logging| Ok(logging.set_used(ring, address)))
            }
            Carried::UsedLog { .. } => Err(io::ErrorKind::InvalidData.into()),
            Carried::Announce => {
                self.port.emit(PortEvent::Announce);
                Ok(())
            }
        }
    }

    /// The state is what was left by rings that are stopped (vhost-user specification, "Migrating back-end state").
    fn set_device_state_fd(
        &self,
        direction: VhostTransferStateDirection,
        VhostTransferStatePhase::STOPPED: VhostTransferStatePhase,
        file: File,
    ) -> io::Result<Option<File>> {
        let name = &self.port.spec.name;
        if self.port.runs() {
            self.port.warn("the VMM wants the device's state transferred while rings run: refused");
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let port = Arc::clone(&self.port);
        let vm = vm_number(name);
        let transfer = match direction {
            VhostTransferStateDirection::SAVE => {
                Transfer::save((vm, file), |request| port.emit(PortEvent::Save(request)))
            }
            VhostTransferStateDirection::LOAD => {
                Transfer::load((vm, file), move |request| port.emit(PortEvent::Load(request)))
            }
        };
        // One that was begun before is given up.
        *self.transfer.lock().unwrap_or_else(PoisonError::into_inner) = Some(transfer?);
        Ok(None)
    }

    fn check_device_state(&self) -> io::Result<()> {
        let transfer = self.transfer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let outcome = transfer.map_or_else(|| Err("no transfer was begun".into()), Transfer::check);
        outcome.map_err(|why| {
            self.port.warn(&format!("the device's state was not transferred: {why}"));
            io::Error::other(why)
        })
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        let map: GuestMemoryMmap<()> = GuestMemoryMmap::clone(&memory.memory());
        self.port.emit_and_wait(|done| PortEvent::Memory(Arc::new(MemoryMap::new(map)), done))
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        // No workers of the crate's: vonic's own touch the rings.
        Vec::new()
    }

    fn stop_vring(&self, index: u32) -> io::Result<()> {
        self.port.stopped(index as u16);
        self.port.emit_and_wait(|done| PortEvent::RingStopped { index: index as u16, done })
    }

    fn handle_event(&self, _: u16, _: EventSet, _: &[Ring<S>], _: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
