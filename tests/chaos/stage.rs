//! What all scenarios of a run share: the broker, the SAE, the programs, the seed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kafka_server::Kafka;
use crate::support;

/// The program as tests build it, with the points of `src/fault.rs` armed by `FAILPOINTS`.
const RECSAE: &str = env!("CARGO_BIN_EXE_recsae");

/// Shared parts.
pub(crate) struct Stage {
    pub(crate) seed: u64,
    pub(crate) kafka: Kafka,
    pub(crate) library: PathBuf,
    pub(crate) python: PathBuf,
    /// The program; `CHAOS_RECSAE` puts another in its place (an optimised one).
    pub(crate) recsae: PathBuf,
    /// A program without points, for kills from outside: `CHAOS_PLAIN_RECSAE`, else the same.
    pub(crate) plain: PathBuf,
    /// Whether that one was named, and so is a release: held to times.
    pub(crate) plain_is_optimised: bool,
    folder: tempfile::TempDir,
}

impl Stage {
    /// Starts the broker, draws the SAE, builds its bundle. `None` after saying what is missing.
    pub(crate) fn set_up(seed: u64) -> Option<Self> {
        let (library, python) = (support::onnxruntime()?, support::python()?);
        let Some(kafka) = Kafka::start() else {
            support::skip("no Apache Kafka (make setup)");
            return None;
        };
        let named = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let recsae = named("CHAOS_RECSAE").unwrap_or_else(|| PathBuf::from(RECSAE));
        let optimised = named("CHAOS_PLAIN_RECSAE");
        let plain_is_optimised = optimised.is_some();
        let plain = optimised.unwrap_or_else(|| recsae.clone());
        let stage = Self { seed, kafka, library, python, recsae, plain, plain_is_optimised, folder: tempfile::tempdir().unwrap() };
        stage.draw(&stage.model(), &stage.bundle(), &[]);
        Some(stage)
    }

    /// Draws an SAE and builds its bundle.
    pub(crate) fn draw(&self, model: &Path, bundle: &Path, how: &[&str]) {
        let mut script = Command::new(&self.python);
        let drawn = script.arg(oracle()).args(["model", &self.seed.to_string()]).arg(model).args(how).output().unwrap();
        assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
        let built = Command::new(&self.recsae)
            .env("ORT_DYLIB_PATH", &self.library)
            .args(["bundle", "build", "--onnx"])
            .arg(model.join("sae.onnx"))
            .arg("--out")
            .arg(bundle)
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }

    /// Folder of the SAE's numbers.
    pub(crate) fn model(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    /// Its bundle.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.folder.path().join("bundle")
    }
}

/// The script that counts slowly.
pub(crate) fn oracle() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/chaos_oracle.py")
}
