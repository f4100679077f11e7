//! Captures of VMs' frames: the worker copies them, the API's thread writes them out.
use super::Input;
use super::registry::Registry;
use crate::api::{ApiError, Handed, Response};
use crate::capture::Nic;
use crate::capture::stream::now;
use vonic_datapath::{Capturer, Command, Reply};

impl Registry {
    /// Has a VM's worker capture its frames.
    pub(super) fn capture(&mut self, vm: &str, capturer: &Handed<Capturer>) -> Response {
        let Some(entry) = self.vms.get(vm) else { return Response::Error(ApiError::no_such_vm(vm)) };
        let (port, mac) = (entry.port, entry.vm.mac);
        let Some(capturer) = capturer.take() else {
            return Response::Error(ApiError::internal("there is nothing to capture with"));
        };
        log::info!("{vm}: its frames are captured (capture {})", capturer.number());
        self.order(Command::Capture { port, capturer: Box::new(capturer) });
        let clock = self.migration.checkpoint.header().elapsed().as_micros() as u64;
        Response::Capturing(Nic { mac, epoch: now().saturating_sub(clock) })
    }

    /// Has it capture them no more. Of a VM that has gone there is nothing to end.
    pub(super) fn end_capture(&mut self, vm: &str, number: u64) {
        log::info!("{vm}: capture {number} has ended");
        let Some(port) = self.vms.get(vm).map(|entry| entry.port) else { return };
        let sender = self.sender();
        // This thread gives the memory back.
        let reply = Reply::new(move |capturer| drop(sender.send(Input::Captured(capturer))));
        self.order(Command::EndCapture { port, number, reply });
    }
}
