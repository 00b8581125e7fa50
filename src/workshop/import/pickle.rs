//! Pickles as data: an allow-list of opcodes and names, and nothing is ever executed.
//!
//! A pickle is a program for a small stack machine; its `REDUCE` calls what `GLOBAL` names. Here a name is
//! a word, a call of one of six known words builds data, and every other name or opcode is refused. There
//! is no way from a file to code, because there is no code that a name could reach.

use std::collections::HashMap;

use anyhow::{Context, bail, ensure};

/// Largest pickle: names and shapes of some thousand tensors are far below it.
const MOST_BYTES: usize = 16 << 20;
/// Most values; bounds memory whatever the program does.
const MOST_NODES: usize = 1_000_000;

/// Position of a value in the machine's memory.
pub(super) type Ref = usize;

/// A value. Containers hold positions, because a pickle fills them after it has remembered them.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Ref>),
    Tuple(Vec<Ref>),
    Dict(Vec<(Ref, Ref)>),
    /// A name that may stand in a checkpoint.
    Name(String),
    /// A persistent id: (storage, type, key, location, elements).
    Storage {
        element: String,
        key: String,
        n_elements: i64,
    },
    Tensor {
        storage: Ref,
        offset: i64,
        shape: Vec<i64>,
        strides: Vec<i64>,
    },
}

/// What a pickle leaves.
#[derive(Debug)]
pub(super) struct Pickle {
    nodes: Vec<Node>,
    root: Ref,
}

impl Pickle {
    /// Reads a pickle.
    pub(super) fn read(bytes: &[u8]) -> anyhow::Result<Self> {
        ensure!(bytes.len() <= MOST_BYTES, "a pickle of {} bytes, expected at most {MOST_BYTES}", bytes.len());
        Machine::new(bytes).run()
    }

    /// The value the pickle is of.
    pub(super) fn root(&self) -> Ref {
        self.root
    }

    /// A value.
    pub(super) fn node(&self, at: Ref) -> &Node {
        &self.nodes[at]
    }
}

/// Names that may be called, and what a call makes of its arguments.
const CALLS: [&str; 6] = [
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.Size",
    "torch.device",
    "collections.OrderedDict",
    "torch.serialization._get_layout",
];
/// Names that may stand there but are never called.
const WORDS: [&str; 19] = [
    "torch.FloatStorage",
    "torch.HalfStorage",
    "torch.BFloat16Storage",
    "torch.DoubleStorage",
    "torch.LongStorage",
    "torch.IntStorage",
    "torch.ShortStorage",
    "torch.CharStorage",
    "torch.ByteStorage",
    "torch.BoolStorage",
    "torch.float32",
    "torch.float16",
    "torch.bfloat16",
    "torch.float64",
    "torch.int64",
    "torch.int32",
    "torch.bool",
    "torch.strided",
    "torch.storage.UntypedStorage",
];

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Ref>,
    marks: Vec<usize>,
    memo: HashMap<u32, Ref>,
}

impl<'a> Machine<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, nodes: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() }
    }

    fn run(mut self) -> anyhow::Result<Pickle> {
        loop {
            let at = self.at;
            let opcode = self.take(1)?[0];
            if opcode == b'.' {
                let root = self.pop()?;
                ensure!(self.stack.is_empty() && self.marks.is_empty(), "the pickle leaves more than one value");
                return Ok(Pickle { nodes: self.nodes, root });
            }
            self.step(opcode).with_context(|| format!("opcode {:?} at byte {at} of the pickle", char::from(opcode)))?;
            ensure!(self.nodes.len() <= MOST_NODES, "more than {MOST_NODES} values");
        }
    }

    fn step(&mut self, opcode: u8) -> anyhow::Result<()> {
        match opcode {
            0x80 => ensure!((2..=4).contains(&self.take(1)?[0]), "expected protocol 2 to 4"),
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'}' => self.push(Node::Dict(Vec::new())),
            b']' => self.push(Node::List(Vec::new())),
            b')' => self.push(Node::Tuple(Vec::new())),
            b't' => {
                let items = self.above_mark()?;
                self.push(Node::Tuple(items));
            }
            0x85..=0x87 => {
                let n = usize::from(opcode - 0x84);
                ensure!(self.stack.len() >= n, "the stack is empty");
                let items = self.stack.split_off(self.stack.len() - n);
                self.push(Node::Tuple(items));
            }
            b'K' => {
                let value = i64::from(self.take(1)?[0]);
                self.push(Node::Int(value));
            }
            b'M' => {
                let value = i64::from(u16::from_le_bytes(self.array()?));
                self.push(Node::Int(value));
            }
            b'J' => {
                let value = i64::from(i32::from_le_bytes(self.array()?));
                self.push(Node::Int(value));
            }
            0x8a => self.long()?,
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Node::Float(value));
            }
            0x8c => {
                let n = usize::from(self.take(1)?[0]);
                self.text(n)?;
            }
            b'X' => {
                let n = u32::from_le_bytes(self.array()?) as usize;
                self.text(n)?;
            }
            b'q' => {
                let place = u32::from(self.take(1)?[0]);
                self.remember(place)?;
            }
            b'r' => {
                let place = u32::from_le_bytes(self.array()?);
                self.remember(place)?;
            }
            0x94 => {
                let place = u32::try_from(self.memo.len())?;
                self.remember(place)?;
            }
            b'h' => {
                let place = u32::from(self.take(1)?[0]);
                self.recall(place)?;
            }
            b'j' => {
                let place = u32::from_le_bytes(self.array()?);
                self.recall(place)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.name(&format!("{module}.{name}"))?;
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                self.name(&format!("{module}.{name}"))?;
            }
            b'Q' => self.storage()?,
            b'R' => self.call()?,
            b'b' => self.build()?,
            b's' | b'u' => self.set_items(opcode == b'u')?,
            b'a' | b'e' => self.append(opcode == b'e')?,
            _ => bail!("is not allowed in a checkpoint (a class instance, or a program); save its state_dict() instead"),
        }
        Ok(())
    }

    fn take(&mut self, n: usize) -> anyhow::Result<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.saturating_add(n)).context("the pickle is cut off")?;
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> anyhow::Result<[u8; N]> {
        Ok(self.take(N)?.try_into()?)
    }

    fn line(&mut self) -> anyhow::Result<&'a str> {
        let end = self.bytes[self.at..].iter().position(|byte| *byte == b'\n').context("the pickle is cut off")?;
        let line = self.take(end)?;
        self.take(1)?;
        Ok(std::str::from_utf8(line)?)
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    fn pop(&mut self) -> anyhow::Result<Ref> {
        let floor = self.marks.last().copied().unwrap_or(0);
        ensure!(self.stack.len() > floor, "the stack is empty");
        self.stack.pop().context("the stack is empty")
    }

    fn pop_text(&mut self) -> anyhow::Result<String> {
        let at = self.pop()?;
        match &self.nodes[at] {
            Node::Text(text) => Ok(text.clone()),
            other => bail!("expected text, found {other:?}"),
        }
    }

    fn above_mark(&mut self) -> anyhow::Result<Vec<Ref>> {
        let mark = self.marks.pop().context("no mark")?;
        ensure!(mark <= self.stack.len(), "the stack is empty");
        Ok(self.stack.split_off(mark))
    }

    fn text(&mut self, n: usize) -> anyhow::Result<()> {
        let text = std::str::from_utf8(self.take(n)?)?.to_owned();
        self.push(Node::Text(text));
        Ok(())
    }

    fn long(&mut self) -> anyhow::Result<()> {
        let n = usize::from(self.take(1)?[0]);
        ensure!(n <= 8, "an integer of {n} bytes");
        let bytes = self.take(n)?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xFF } else { 0 }; 8];
        wide[..n].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn remember(&mut self, place: u32) -> anyhow::Result<()> {
        let top = *self.stack.last().context("the stack is empty")?;
        self.memo.insert(place, top);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> anyhow::Result<()> {
        let at = *self.memo.get(&place).with_context(|| format!("nothing is remembered as {place}"))?;
        self.stack.push(at);
        // A recalled value is no new node, but a loop of recalls must end too.
        ensure!(self.stack.len() <= MOST_NODES, "the stack is too deep");
        Ok(())
    }

    fn name(&mut self, name: &str) -> anyhow::Result<()> {
        ensure!(
            CALLS.contains(&name) || WORDS.contains(&name),
            "the name {name:?} is not allowed in a checkpoint; save the state_dict() of the SAE alone"
        );
        self.push(Node::Name(name.to_owned()));
        Ok(())
    }

    fn storage(&mut self) -> anyhow::Result<()> {
        let id = self.pop()?;
        let Node::Tuple(parts) = &self.nodes[id] else { bail!("expected a storage") };
        let parts: Vec<&Node> = parts.iter().map(|at| &self.nodes[*at]).collect();
        let [Node::Text(kind), Node::Name(element), Node::Text(key), Node::Text(_), Node::Int(n_elements)] = parts[..] else {
            bail!("expected a storage, found {parts:?}")
        };
        ensure!(kind == "storage", "expected a storage, found {kind:?}");
        ensure!(key.bytes().all(|byte| byte.is_ascii_alphanumeric()), "a storage named {key:?}");
        let node = Node::Storage { element: element.clone(), key: key.clone(), n_elements: *n_elements };
        self.push(node);
        Ok(())
    }

    fn call(&mut self) -> anyhow::Result<()> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let (Node::Name(name), Node::Tuple(arguments)) = (&self.nodes[callee], &self.nodes[arguments]) else {
            bail!("a call of what is no name")
        };
        let integers = |at: &Ref| match &self.nodes[*at] {
            Node::Tuple(items) => {
                items.iter().map(|at| if let Node::Int(n) = self.nodes[*at] { Ok(n) } else { bail!("expected integers") }).collect()
            }
            other => bail!("expected integers, found {other:?}"),
        };
        let made = match (name.as_str(), arguments.as_slice()) {
            ("torch._utils._rebuild_tensor_v2", [storage, offset, shape, strides, ..]) => {
                let (Node::Storage { .. }, Node::Int(offset)) = (&self.nodes[*storage], &self.nodes[*offset]) else {
                    bail!("a tensor without a storage")
                };
                Node::Tensor { storage: *storage, offset: *offset, shape: integers(shape)?, strides: integers(strides)? }
            }
            ("torch._utils._rebuild_parameter", [data, ..]) => self.nodes[*data].clone(),
            ("torch.Size", [items]) => self.nodes[*items].clone(),
            ("torch.device" | "torch.serialization._get_layout", [name, ..]) => self.nodes[*name].clone(),
            ("collections.OrderedDict", []) => Node::Dict(Vec::new()),
            ("collections.OrderedDict", [items]) => Node::Dict(self.pairs(*items)?),
            _ => bail!("{name} with {} arguments is not allowed in a checkpoint", arguments.len()),
        };
        self.push(made);
        Ok(())
    }

    fn pairs(&self, items: Ref) -> anyhow::Result<Vec<(Ref, Ref)>> {
        let Node::List(items) = &self.nodes[items] else { bail!("expected a list of pairs") };
        let pair = |at: &Ref| match &self.nodes[*at] {
            Node::Tuple(pair) | Node::List(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
            other => bail!("expected a pair, found {other:?}"),
        };
        items.iter().map(pair).collect()
    }

    /// Attributes set on a value: torch puts `_metadata` on a state_dict. They are left out.
    fn build(&mut self) -> anyhow::Result<()> {
        self.pop()?;
        let object = *self.stack.last().context("the stack is empty")?;
        ensure!(matches!(self.nodes[object], Node::Dict(_)), "attributes on what is no dictionary");
        Ok(())
    }

    fn set_items(&mut self, many: bool) -> anyhow::Result<()> {
        let items = if many {
            self.above_mark()?
        } else {
            let (value, key) = (self.pop()?, self.pop()?);
            vec![key, value]
        };
        ensure!(items.len() % 2 == 0, "a key without a value");
        let object = *self.stack.last().context("the stack is empty")?;
        let Node::Dict(pairs) = &mut self.nodes[object] else { bail!("items for what is no dictionary") };
        pairs.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        ensure!(pairs.len() <= MOST_NODES, "too many items");
        Ok(())
    }

    fn append(&mut self, many: bool) -> anyhow::Result<()> {
        let items = if many { self.above_mark()? } else { vec![self.pop()?] };
        let object = *self.stack.last().context("the stack is empty")?;
        let Node::List(list) = &mut self.nodes[object] else { bail!("items for what is no list") };
        list.extend(items);
        ensure!(list.len() <= MOST_NODES, "too many items");
        Ok(())
    }
}
