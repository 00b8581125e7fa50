//! A network namespace for the program, and a packet filter between it and the broker: real packets are dropped, both ways
//! or one way, connections that are opened meanwhile among them.
//!
//! Needs root and `nft`; where they are not to be had a relay stands in ([`crate::relay`]). Nothing is left behind: the
//! namespace, its two ends of a cable and its filter are gone with the last process in it, and its holder ends with the test.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::monitor::Checked;
use crate::relay::{Relay, Way};
use crate::support;

/// A namespace of its own, joined to this one by a cable.
pub(crate) struct Namespace {
    /// Holds it open until its input ends.
    holder: Child,
    /// Where the program believes the broker to be, on its own loopback.
    port: u16,
    /// The other end, as the namespace knows it, and its own.
    addresses: [String; 2],
    /// What stands at this end and passes on to the broker, and to the program's listeners.
    doors: Vec<Relay>,
}

impl Namespace {
    /// Why there is none on this machine, if so.
    pub(crate) fn not_to_be_had() -> Option<String> {
        if support::program("nft").is_none() {
            return Some("no nft (make setup)".into());
        }
        let allowed = Command::new("unshare").args(["--net", "true"]).stderr(Stdio::null()).status();
        (!allowed.is_ok_and(|status| status.success())).then(|| "unshare --net was refused (needs root)".into())
    }

    /// In it, the port of `from` on its loopback leads over the cable to `to` here.
    ///
    /// # Errors
    /// What went wrong where there should be one.
    pub(crate) fn open(from: &str, to: &str) -> Checked<Self> {
        let port: u16 = from.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).ok_or("no port")?;
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo open; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let mut line = String::new();
        drop(BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line));
        // Addresses for benches (RFC 2544), a pair for each port: no two of this machine meet.
        let at = u32::from(port) * 2;
        let addresses = [0, 1].map(|end| format!("198.{}.{}.{}", 18 + (at >> 16), at >> 8 & 255, (at & 255) + end));
        let mut this = Self { holder, port, addresses, doors: Vec::new() };
        if line.trim() != "open" {
            return Err("unshare --net did not start".into());
        }
        this.lay_cable()?;
        this.doors.push(Relay::start(&format!("{}:{port}", this.addresses[0]), to));
        Ok(this)
    }

    fn lay_cable(&self) -> Checked<()> {
        let (here, there, pid) = (format!("rsm{}a", self.port), format!("rsm{}b", self.port), self.holder.id().to_string());
        let [near, far] = self.addresses.each_ref().map(|address| format!("{address}/31"));
        run(&["ip", "link", "add", &here, "type", "veth", "peer", "name", &there, "netns", &pid], "")?;
        run(&["ip", "address", "add", &near, "dev", &here], "")?;
        run(&["ip", "link", "set", &here, "up"], "")?;
        self.run(&["ip", "address", "add", &far, "dev", &there], "")?;
        self.run(&["ip", "link", "set", &there, "up"], "")?;
        self.run(&["ip", "link", "set", "lo", "up"], "")?;
        // What is for loopback may come and go by the cable.
        self.run(&["tee", "/proc/sys/net/ipv4/conf/all/route_localnet"], "1")?;
        let (port, broker) = (self.port, &self.addresses[0]);
        let table = format!(
            "table inet wire {{
                counter gone_out {{ }}
                counter gone_back {{ }}
                chain out {{ type filter hook output priority filter; }}
                chain back {{ type filter hook input priority filter; }}
                chain to_broker {{
                    type nat hook output priority -100;
                    ip daddr 127.0.0.1 tcp dport {port} dnat ip to {broker}
                }}
                chain as_itself {{
                    type nat hook postrouting priority srcnat;
                    oifname {there} masquerade
                }}
                chain doors {{
                    type nat hook prerouting priority dstnat;
                    iifname {there} tcp dport != {port} dnat ip to 127.0.0.1
                }}
            }}"
        );
        self.run(&["nft", "-f", "-"], &table)
    }

    /// A program that runs another in this namespace, and its arguments before the other's own.
    pub(crate) fn entering(&self) -> (PathBuf, [String; 3]) {
        (PathBuf::from("nsenter"), ["-t".into(), self.holder.id().to_string(), "-n".into()])
    }

    /// A listener on the namespace's loopback is reached at the same port of this one's.
    pub(crate) fn show(&mut self, port: u16) {
        self.doors.push(Relay::start(&format!("127.0.0.1:{port}"), &format!("{}:{port}", self.addresses[1])));
    }

    /// Drops packets to the broker, or from it, or both; all other ways stay open.
    pub(crate) fn cut(&self, way: Way) -> Checked<()> {
        let port = self.port;
        let out = (way != Way::In).then(|| format!("add rule inet wire out tcp dport {port} counter name gone_out drop\n"));
        let back = (way != Way::Out).then(|| format!("add rule inet wire back tcp sport {port} counter name gone_back drop\n"));
        self.run(&["nft", "-f", "-"], &out.into_iter().chain(back).collect::<String>())
    }

    /// Drops nothing any more; how many packets were dropped on the way out and on the way back since the last time.
    pub(crate) fn mend(&self) -> Checked<(u64, u64)> {
        self.run(&["nft", "-f", "-"], "flush chain inet wire out\nflush chain inet wire back\n")?;
        let dropped = |name: &str| -> Checked<u64> {
            let mut command = self.command(&["nft", "reset", "counter", "inet", "wire", name]);
            let printed = String::from_utf8_lossy(&command.output().map_err(|error| error.to_string())?.stdout).into_owned();
            let packets = printed.split_once("packets ").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
            packets.ok_or_else(|| format!("no packets in {printed:?}"))
        };
        Ok((dropped("gone_out")?, dropped("gone_back")?))
    }

    fn command(&self, words: &[&str]) -> Command {
        let (program, arguments) = self.entering();
        let mut command = Command::new(program);
        command.args(arguments).args(words);
        command
    }

    fn run(&self, words: &[&str], input: &str) -> Checked<()> {
        finish(self.command(words), words, input)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Closes its input: `cat` ends.
        drop(self.holder.wait());
    }
}

fn run(words: &[&str], input: &str) -> Checked<()> {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    finish(command, words, input)
}

fn finish(mut command: Command, words: &[&str], input: &str) -> Checked<()> {
    let words = words.join(" ");
    let started = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = started.map_err(|error| format!("{words}: {error}"))?;
    child.stdin.take().unwrap().write_all(input.as_bytes()).map_err(|error| format!("{words}: {error}"))?;
    let out = child.wait_with_output().map_err(|error| format!("{words}: {error}"))?;
    if out.status.success() { Ok(()) } else { Err(format!("{words}: {}", String::from_utf8_lossy(&out.stderr).trim())) }
}
