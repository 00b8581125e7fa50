//! Why an ONNX file is refused.

/// A refusal: what was expected, what was found, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OnnxError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(String),
    /// File, data or a tensor is larger than the cap.
    #[error("{what}: expected at most {limit}, found {found}; export the SAE alone, without the recommender around it")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The cap.
        limit: u64,
        /// What was found.
        found: String,
    },
    /// Not an ONNX model, or one that contradicts itself.
    #[error("not a readable ONNX model: {0}; export it again, and check that the file was copied whole")]
    Malformed(String),
    /// An operator that is not on the list.
    #[error(
        "operator {op} in {place} is not allowed: only standard row-wise operators are; export the SAE alone, without custom or control-flow operators"
    )]
    Operator {
        /// Domain and name.
        op: String,
        /// Where it stands.
        place: String,
    },
    /// Model-local functions are not run.
    #[error("node {0:?} calls a model-local function; export with functions inlined (onnx.inliner.inline_local_functions)")]
    Function(String),
    /// External data outside the rules.
    #[error("external data of tensor {tensor:?}: {problem}; put the data file beside the model, as the exporter wrote it")]
    External {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// The graph is not an SAE encoder as far as can be told.
    #[error("expected {expected}, found {found}; {action}")]
    NotAnEncoder {
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
        /// What to do.
        action: String,
    },
    /// Nothing in the graph says how many latents are active.
    #[error(
        "the graph ends in {d_sae} dense latents and selects none, so nothing in it says how many are active; say so with --k K (a TopK SAE) or --threshold T (0 for a plain ReLU SAE)"
    )]
    NoSelection {
        /// Width of the dense output.
        d_sae: usize,
    },
    /// The user's selection is not the graph's.
    #[error("the graph selects {graph}, the command line says {asked}; leave it out, or export the graph with the selection meant")]
    Selection {
        /// What the graph does.
        graph: String,
        /// What was asked for.
        asked: String,
    },
}

impl OnnxError {
    /// Stable name of the refusal.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Io(_) => "io",
            Self::TooLarge { .. } => "too_large",
            Self::Malformed(_) => "malformed",
            Self::Operator { .. } => "operator",
            Self::Function(_) => "function",
            Self::External { .. } => "external_data",
            Self::NotAnEncoder { .. } => "not_an_encoder",
            Self::NoSelection { .. } => "no_selection",
            Self::Selection { .. } => "selection",
        }
    }
}
