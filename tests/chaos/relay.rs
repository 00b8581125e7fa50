//! A relay between the program and the broker that can be cut, both ways or one way, and mended.
//!
//! Namespaces and packet filters ([`crate::namespace`]) are not to be had everywhere that tests run (they need root, and a
//! kernel that has them); a relay is. While a direction is cut its bytes are taken and held, and nobody is told, as where packets vanish; mended,
//! they go on, as what TCP sends again does, so requests of a peer that has long given up may arrive, too. What it does not
//! show: a connection that cannot even be opened (here it opens, and nobody answers).

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::stage::Stage;

/// How often a thread looks whether it is still wanted, and whether its direction is mended.
const LOOK: Duration = Duration::from_millis(10);

/// Which way is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// What the program sends does not reach the broker.
    Out,
    /// What the broker sends does not reach the program.
    In,
    /// Neither.
    Both,
}

/// Scenarios that stand where the broker sends its clients: there is one such port.
static DOOR: Mutex<()> = Mutex::new(());

/// A running relay; its connections end with it.
pub(crate) struct Relay {
    wire: Arc<Wire>,
    /// Holds the listener.
    accepting: Option<JoinHandle<()>>,
    door: Option<MutexGuard<'static, ()>>,
}

#[derive(Default)]
struct Wire {
    is_over: AtomicBool,
    out: Direction,
    back: Direction,
}

#[derive(Default)]
struct Direction {
    is_cut: AtomicBool,
    /// Bytes that came while it was cut.
    held: AtomicU64,
}

impl Relay {
    /// Between the broker and the clients that it sends to a relay; waits while another scenario's stands there.
    pub(crate) fn of(stage: &Stage) -> Self {
        let door = DOOR.lock().unwrap_or_else(PoisonError::into_inner);
        let mut relay = Self::start(&stage.kafka.relay, &stage.kafka.relayed);
        relay.door = Some(door);
        relay
    }

    /// Listens at `from` and passes everything on to `to`.
    pub(crate) fn start(from: &str, to: &str) -> Self {
        let listener = TcpListener::bind(from).unwrap();
        listener.set_nonblocking(true).unwrap();
        let wire = Arc::new(Wire::default());
        let (own, to) = (Arc::clone(&wire), to.to_owned());
        let accepting = std::thread::spawn(move || {
            while !own.is_over.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((program, _)) => connect(&own, program, &to),
                    Err(_) => std::thread::sleep(LOOK),
                }
            }
        });
        Self { wire, accepting: Some(accepting), door: None }
    }

    /// Cuts one way or both.
    pub(crate) fn cut(&self, way: Way) {
        self.wire.out.is_cut.store(way != Way::In, Ordering::SeqCst);
        self.wire.back.is_cut.store(way != Way::Out, Ordering::SeqCst);
    }

    /// Mends both; how many bytes were held on the way out and on the way back since the last time.
    pub(crate) fn mend(&self) -> (u64, u64) {
        let mend = |direction: &Direction| {
            direction.is_cut.store(false, Ordering::SeqCst);
            direction.held.swap(0, Ordering::SeqCst)
        };
        (mend(&self.wire.out), mend(&self.wire.back))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.wire.is_over.store(true, Ordering::SeqCst);
        // The port is free before the next may stand there.
        drop(self.accepting.take().map(JoinHandle::join));
        drop(self.door.take());
    }
}

/// Passes on both ways, a thread each. A broker that refuses refuses the program, too.
fn connect(wire: &Arc<Wire>, program: TcpStream, to: &str) {
    let Ok(broker) = TcpStream::connect(to) else { return };
    for end in [&program, &broker] {
        end.set_nonblocking(false).unwrap();
        end.set_nodelay(true).unwrap();
        end.set_read_timeout(Some(LOOK)).unwrap();
    }
    let (program_too, broker_too) = (program.try_clone().unwrap(), broker.try_clone().unwrap());
    let (there, back) = (Arc::clone(wire), Arc::clone(wire));
    std::thread::spawn(move || pass_on(program, broker, &there, &there.out));
    std::thread::spawn(move || pass_on(broker_too, program_too, &back, &back.back));
}

/// Until one end closes, or the relay is over. An end that closes while its direction is cut is not noticed before that is mended.
fn pass_on(mut from: TcpStream, mut to: TcpStream, wire: &Wire, direction: &Direction) {
    let mut buffer = vec![0; 64 << 10];
    while !wire.is_over.load(Ordering::SeqCst) {
        let n = match from.read(&mut buffer) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => continue,
            Ok(n) => n,
            Err(_) => 0,
        };
        if direction.is_cut.load(Ordering::SeqCst) {
            direction.held.fetch_add(n as u64, Ordering::SeqCst);
            while direction.is_cut.load(Ordering::SeqCst) && !wire.is_over.load(Ordering::SeqCst) {
                std::thread::sleep(LOOK);
            }
        }
        if n == 0 || to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
}
