//! What each tensor of a graph is: a constant, so many values per row of the batch, or neither.
//!
//! One pass in the graph's own (topological) order. Only operators that treat every row alike keep a
//! tensor "per row"; whatever mixes rows, depends on the number of rows, or is not understood becomes
//! opaque with the reason, and an encoder that passes through it is refused with that reason.

use std::collections::HashMap;

use ndarray::{Array1, Array2};
use onnx_protobuf::{GraphProto, ModelProto, NodeProto, TensorProto};

use crate::bundle::onnx::error::OnnxError;
use crate::bundle::onnx::proto::{BOOL, FLOAT, INT64, attribute, dims, floats, input, int, integers, matrix, tensor_type, vector};

/// Widest embedding or dictionary accepted.
const MAX_WIDTH: usize = 1 << 22;

/// What a tensor is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fact {
    /// The same for every batch; dimensions where they are known.
    Constant(Option<Vec<usize>>),
    /// `[n, width]`: row i depends on embedding i alone.
    PerRow {
        /// Values a row.
        width: usize,
        /// ONNX element type.
        element: i32,
    },
    /// Neither, and why.
    Opaque(String),
}

/// A graph with what is known of its tensors.
pub(super) struct Graph<'a> {
    /// The model it came from.
    pub(super) model: &'a ModelProto,
    /// The graph itself.
    pub(super) proto: &'a GraphProto,
    /// Name of the embedding input.
    pub(super) input: &'a str,
    /// Width of the embedding.
    pub(super) d_in: usize,
    /// Batch size written into the file, if one is.
    pub(super) static_batch: Option<usize>,
    facts: HashMap<&'a str, Fact>,
    producers: HashMap<&'a str, usize>,
    initialisers: HashMap<&'a str, &'a TensorProto>,
    live: Vec<bool>,
}

impl<'a> Graph<'a> {
    /// Looks through a model that passed the guard and holds all its data.
    pub(super) fn new(model: &'a ModelProto) -> Result<Self, OnnxError> {
        let proto: &GraphProto = model.graph.get_or_default();
        let initialisers: HashMap<&str, &TensorProto> = proto.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let (input, d_in, static_batch) = embedding_input(proto, &initialisers)?;
        let mut graph = Self {
            model,
            proto,
            input,
            d_in,
            static_batch,
            facts: HashMap::new(),
            producers: HashMap::new(),
            initialisers,
            live: Vec::new(),
        };
        for (name, tensor) in &graph.initialisers {
            graph.facts.insert(name, Fact::Constant(Some(dims(tensor))));
        }
        graph.facts.insert(input, Fact::PerRow { width: d_in, element: FLOAT });
        for (index, node) in proto.node.iter().enumerate() {
            let facts = graph.node_facts(node)?;
            for (name, fact) in node.output.iter().zip(facts).filter(|(name, _)| !name.is_empty()) {
                graph.producers.insert(name, index);
                if graph.facts.insert(name, fact).is_some() {
                    return Err(OnnxError::Malformed(format!("tensor {name:?} is produced twice")));
                }
            }
        }
        graph.live = graph.reached_from(proto.output.iter().map(|output| output.name.as_str()));
        Ok(graph)
    }

    /// What is known of a tensor.
    pub(super) fn fact(&self, name: &str) -> &Fact {
        const UNKNOWN: &Fact = &Fact::Opaque(String::new());
        self.facts.get(name).unwrap_or(UNKNOWN)
    }

    /// The node that makes a tensor.
    pub(super) fn producer(&self, name: &str) -> Option<&'a NodeProto> {
        self.producers.get(name).map(|index| &self.proto.node[*index])
    }

    /// Nodes that an output of the graph depends on.
    pub(super) fn live_nodes(&self) -> impl Iterator<Item = &'a NodeProto> {
        self.proto.node.iter().zip(&self.live).filter(|(_, live)| **live).map(|(node, _)| node)
    }

    /// Live nodes that read a tensor.
    pub(super) fn consumers(&self, name: &str) -> impl Iterator<Item = &'a NodeProto> {
        self.live_nodes().filter(move |node| node.input.iter().any(|input| input == name))
    }

    /// Whether a tensor is an output of the graph.
    pub(super) fn is_output(&self, name: &str) -> bool {
        self.proto.output.iter().any(|output| output.name == name)
    }

    /// An initialiser by name.
    pub(super) fn initialiser(&self, name: &str) -> Option<&'a TensorProto> {
        self.initialisers.get(name).copied()
    }

    /// Which nodes the given tensors depend on.
    pub(super) fn reached_from<'b>(&self, names: impl Iterator<Item = &'b str>) -> Vec<bool> {
        let mut reached = vec![false; self.proto.node.len()];
        let mut open: Vec<usize> = names.filter_map(|name| self.producers.get(name).copied()).collect();
        while let Some(index) = open.pop() {
            if !std::mem::replace(&mut reached[index], true) {
                open.extend(self.proto.node[index].input.iter().filter_map(|name| self.producers.get(name.as_str()).copied()));
            }
        }
        reached
    }

    /// A constant f32 matrix, through `Transpose` and `Identity`.
    pub(super) fn matrix(&self, name: &str) -> Option<Array2<f32>> {
        let (tensor, transposed) = self.constant(name, &["Identity", "Transpose", "Cast"])?;
        let matrix = matrix(tensor)?;
        Some(if transposed { matrix.reversed_axes().as_standard_layout().into_owned() } else { matrix })
    }

    /// A constant f32 vector `[n]` or `[1, n]`.
    pub(super) fn vector(&self, name: &str) -> Option<Array1<f32>> {
        vector(self.constant(name, &["Identity", "Cast"])?.0)
    }

    /// A constant f32 that is the same for every row: one value, or one a column.
    pub(super) fn broadcast(&self, name: &str) -> Option<Array1<f32>> {
        if let Some(value) = self.producer(name).filter(|node| node.op_type == "Constant").and_then(|node| attribute(node, "value_float")) {
            return Some(Array1::from_elem(1, value.f));
        }
        let (tensor, _) = self.constant(name, &["Identity", "Cast"])?;
        let dims = dims(tensor);
        let leading = dims.split_last().map_or(&[][..], |(_, leading)| leading);
        leading.iter().all(|dim| *dim == 1).then(|| floats(tensor).map(Array1::from))?
    }

    /// A constant integer, alone or in a tensor of one value.
    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        if let Some(node) = self.producer(name).filter(|node| node.op_type == "Constant") {
            if let Some(value) = attribute(node, "value_int") {
                return Some(value.i);
            }
            if let Some(values) = attribute(node, "value_ints") {
                return (values.ints.len() == 1).then(|| values.ints[0]);
            }
        }
        match integers(self.constant(name, &["Identity", "Reshape", "Unsqueeze", "Squeeze"])?.0)?.as_slice() {
            [value] => Some(*value),
            _ => None,
        }
    }

    /// The tensor behind a constant, through the given operators, and whether it was transposed on the way.
    fn constant(&self, name: &str, through: &[&str]) -> Option<(&'a TensorProto, bool)> {
        let mut transposed = false;
        let mut name = name;
        loop {
            if let Some(tensor) = self.initialiser(name) {
                return Some((tensor, transposed));
            }
            let node = self.producer(name)?;
            if node.op_type == "Constant" {
                return attribute(node, "value")?.t.as_ref().map(|tensor| (tensor, transposed));
            }
            if !through.contains(&node.op_type.as_str()) {
                return None;
            }
            if node.op_type == "Cast" && int(node, "to", 0) != i64::from(FLOAT) {
                return None;
            }
            transposed ^= node.op_type == "Transpose";
            name = input(node, 0)?;
        }
    }

    /// Facts of a node's outputs from those of its inputs.
    fn node_facts(&self, node: &NodeProto) -> Result<Vec<Fact>, OnnxError> {
        let mut inputs = Vec::with_capacity(node.input.len());
        for name in &node.input {
            match self.facts.get(name.as_str()) {
                Some(fact) => inputs.push(fact),
                None if name.is_empty() => {}
                None => return Err(OnnxError::Malformed(format!("{} reads {name:?} before anything produces it", node.op_type))),
            }
        }
        let first = match inputs.iter().find(|fact| matches!(fact, Fact::Opaque(_))) {
            Some(opaque) => (*opaque).clone(),
            None if inputs.iter().all(|fact| matches!(fact, Fact::Constant(_))) => constant_fact(node, &inputs),
            None => self.row_fact(node, &inputs),
        };
        let mut facts = vec![first; node.output.len()];
        if node.op_type == "TopK"
            && let [Fact::PerRow { width, .. }, Fact::PerRow { width: index_width, element }] = facts.as_mut_slice()
        {
            (*index_width, *element) = (*width, INT64);
        } else {
            facts.iter_mut().skip(1).for_each(|fact| *fact = Fact::Opaque(format!("a second output of {}", node.op_type)));
        }
        Ok(facts)
    }

    /// The first output of a node that reads the batch.
    fn row_fact(&self, node: &NodeProto, inputs: &[&Fact]) -> Fact {
        let opaque = || Fact::Opaque(format!("{}, which is not known to treat every row alike", node.op_type));
        let same = inputs[0].clone();
        match (node.op_type.as_str(), inputs[0]) {
            (
                "Relu" | "Identity" | "Abs" | "Neg" | "Exp" | "Log" | "Sqrt" | "Sigmoid" | "Tanh" | "Erf" | "Elu" | "Selu" | "Celu"
                | "Gelu" | "LeakyRelu" | "HardSigmoid" | "Softplus" | "Softsign" | "ThresholdedRelu" | "Reciprocal" | "Sign" | "Clip",
                Fact::PerRow { .. },
            ) => same,
            ("Cast", Fact::PerRow { width, .. }) => Fact::PerRow { width: *width, element: i32::try_from(int(node, "to", 0)).unwrap_or(0) },
            ("Add" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min" | "PRelu", _) => combine(node, inputs),
            ("Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual", _) => match combine(node, inputs) {
                Fact::PerRow { width, .. } => Fact::PerRow { width, element: BOOL },
                other => other,
            },
            // The condition is of another type than what it chooses from.
            ("Where", _) if inputs.len() == 3 => match (combine(node, inputs), combine(node, &inputs[1..])) {
                (Fact::PerRow { width, .. }, Fact::PerRow { element, .. }) if element != 0 => Fact::PerRow { width, element },
                (Fact::PerRow { .. }, _) => opaque(),
                (other, _) => other,
            },
            ("MatMul", Fact::PerRow { element, .. }) => match inputs {
                [_, Fact::Constant(Some(shape))] if shape.len() == 2 => Fact::PerRow { width: shape[1], element: *element },
                _ => opaque(),
            },
            ("Gemm", Fact::PerRow { element, .. }) if int(node, "transA", 0) == 0 => match inputs {
                [_, Fact::Constant(Some(shape)), rest @ ..] if shape.len() == 2 => {
                    let width = shape[usize::from(int(node, "transB", 0) == 0)];
                    let product = Fact::PerRow { width, element: *element };
                    rest.first().map_or(product.clone(), |bias| combine(node, &[&product, bias]))
                }
                _ => opaque(),
            },
            ("LayerNormalization" | "RMSNormalization" | "Softmax" | "LogSoftmax", Fact::PerRow { .. })
                if matches!(int(node, "axis", -1), -1 | 1) =>
            {
                same
            }
            (
                "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceL1" | "ReduceL2" | "ReduceSumSquare",
                Fact::PerRow { element, .. },
            ) if int(node, "keepdims", 1) == 1 && matches!(self.reduced_axis(node), Some(-1 | 1)) => {
                Fact::PerRow { width: 1, element: *element }
            }
            ("TopK", Fact::PerRow { element, .. }) if matches!(int(node, "axis", -1), -1 | 1) => match self.top_k(node) {
                Some(width) => Fact::PerRow { width, element: *element },
                None => Fact::Opaque("TopK with a k that is not a constant".into()),
            },
            // The latents spread over the dictionary: rows stay apart, but their width is the other operand's.
            ("ScatterElements" | "Scatter", _) => Fact::Opaque("ScatterElements, which comes after a selection".into()),
            _ => opaque(),
        }
    }

    /// The k of a `TopK` node: an input since operator set 10, an attribute before.
    pub(super) fn top_k(&self, node: &NodeProto) -> Option<usize> {
        let k = match input(node, 1) {
            Some(name) => self.integer(name)?,
            None => attribute(node, "k")?.i,
        };
        usize::try_from(k).ok().filter(|k| (1..=MAX_WIDTH).contains(k))
    }

    /// The only axis a reduction runs over: an attribute, or an input in newer operator sets.
    fn reduced_axis(&self, node: &NodeProto) -> Option<i64> {
        match (attribute(node, "axes"), input(node, 1)) {
            (Some(axes), _) if axes.ints.len() == 1 => Some(axes.ints[0]),
            (None, Some(name)) => self.integer(name),
            _ => None,
        }
    }
}

/// The one input that is not a weight: its name, width, and batch size where the file fixes one.
fn embedding_input<'a>(
    proto: &'a GraphProto,
    initialisers: &HashMap<&str, &TensorProto>,
) -> Result<(&'a str, usize, Option<usize>), OnnxError> {
    let refuse = |found: String| OnnxError::NotAnEncoder {
        expected: "one input, f32 [batch, d_in] with a fixed d_in".into(),
        found,
        action: "export the SAE alone, with the embedding as its only input".into(),
    };
    let inputs: Vec<_> = proto.input.iter().filter(|input| !initialisers.contains_key(input.name.as_str())).collect();
    let [only] = inputs.as_slice() else { return Err(refuse(format!("{} inputs", inputs.len()))) };
    match tensor_type(only.type_.get_or_default()) {
        Some((FLOAT, dims)) => match dims.as_slice() {
            [batch, Some(d_in)] if (1..=MAX_WIDTH).contains(d_in) => Ok((only.name.as_str(), *d_in, *batch)),
            other => Err(refuse(format!("dimensions {}", shape_text(other)))),
        },
        Some((element, dims)) => Err(refuse(format!("element type {element}, dimensions {}", shape_text(&dims)))),
        None => Err(refuse("an input without a tensor shape".into())),
    }
}

fn shape_text(dims: &[Option<usize>]) -> String {
    let dims: Vec<String> = dims.iter().map(|dim| dim.map_or("?".to_owned(), |dim| dim.to_string())).collect();
    format!("[{}]", dims.join(", "))
}

/// An elementwise operator over several operands: constants must broadcast over the rows.
fn combine(node: &NodeProto, inputs: &[&Fact]) -> Fact {
    let (mut width, mut element) = (1, 0);
    for fact in inputs {
        match fact {
            Fact::PerRow { width: w, element: e } => (width, element) = (width.max(*w), *e),
            Fact::Constant(Some(shape)) => {
                let fixed_rows = shape.len() > 2 || (shape.len() == 2 && shape[0] != 1);
                if fixed_rows {
                    return Fact::Opaque(format!("{} with a constant of shape {shape:?}, which fixes the batch size", node.op_type));
                }
                width = width.max(shape.last().copied().unwrap_or(1));
            }
            Fact::Constant(None) => return Fact::Opaque(format!("{} with a constant of unknown shape", node.op_type)),
            Fact::Opaque(why) => return Fact::Opaque(why.clone()),
        }
    }
    Fact::PerRow { width, element }
}

/// The output of a node that reads constants alone. Operators that can blow up a shape stay opaque,
/// so that ONNX Runtime is never asked to fold a constant of 10^12 values.
fn constant_fact(node: &NodeProto, inputs: &[&Fact]) -> Fact {
    let shape = match inputs.first() {
        Some(Fact::Constant(shape)) => shape.clone(),
        _ => None,
    };
    match node.op_type.as_str() {
        "Constant" => {
            let shape = match node.attribute.first() {
                Some(value) if value.name == "value" => value.t.as_ref().map(dims),
                Some(value) if value.name == "value_floats" => Some(vec![value.floats.len()]),
                Some(value) if value.name == "value_ints" => Some(vec![value.ints.len()]),
                Some(value) if matches!(value.name.as_str(), "value_float" | "value_int") => Some(vec![]),
                _ => None,
            };
            Fact::Constant(shape)
        }
        "Identity" | "Cast" | "Neg" => Fact::Constant(shape),
        "Transpose" => {
            let plain = attribute(node, "perm").is_none_or(|perm| perm.ints == [1, 0]);
            Fact::Constant(shape.filter(|shape| plain && shape.len() == 2).map(|shape| vec![shape[1], shape[0]]))
        }
        "Reshape" | "Unsqueeze" | "Squeeze" => Fact::Constant(None),
        other => Fact::Opaque(format!("a constant computed by {other}")),
    }
}
