//! Answers requests on a machine's socket, one after another, on the thread `vmm-api`.

use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;

use super::http::{self, PATIENCE};
use super::routes::{Call, failure};
use crate::observe::Observer;

/// The server.
pub struct Server {
    /// Its socket.
    pub listener: UnixListener,
    /// The machine.
    pub observer: Observer,
}

impl Server {
    /// What goes wrong with a connection is its client's loss.
    fn serve(&self, mut stream: UnixStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let ender = &self.observer.live().ender;
        let ended = || ender.ended().is_some();
        match http::read(&mut stream, ended) {
            Ok(request) => match Call::of(&request) {
                Ok(call) => call.answer(&self.observer),
                Err(response) => response,
            }
            .write(&mut stream),
            Err((status, message)) => {
                failure(status, message).write(&mut stream)?;
                stream.shutdown(Shutdown::Write)?;
                http::read_rest(&mut stream, ended);
                Ok(())
            }
        }
    }
}

impl MutEventSubscriber for Server {
    fn init(&mut self, ops: &mut EventOps) {
        // Fails only for lack of memory; then nobody is answered.
        let _ = ops.add(Events::new(&self.listener, EventSet::IN));
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        if let Ok((stream, _)) = self.listener.accept() {
            let _ = self.serve(stream);
        }
    }
}
