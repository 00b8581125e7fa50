//! Finding and loading ONNX Runtime's shared library, once per process.
//!
//! Order: the configuration, `ORT_DYLIB_PATH`, beside the executable, the system's search path. A place
//! that is named (the first two) is the only one tried: silently taking another library would hide the
//! mistake. Everything that can be wrong with it becomes one sentence.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use ort::environment::Environment;

/// Names looked for beside the executable and on the system's search path.
const FILE_NAMES: [&str; 2] = ["libonnxruntime.so", "libonnxruntime.so.1"];
/// Variable that names the library.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

/// ONNX Runtime cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LibraryError {
    /// The named file does not exist.
    #[error("ONNX Runtime: {named_by} names {}, which is not a file; name libonnxruntime.so of version 1.{} or newer", path.display(), ort::MINOR_VERSION)]
    NotAFile {
        /// What named it.
        named_by: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// No library anywhere.
    #[error(
        "ONNX Runtime was not found beside the executable or on the system; install it (`pip download onnxruntime`, or a release of github.com/microsoft/onnxruntime) and name libonnxruntime.so in [encode] onnxruntime or in {LIBRARY_VARIABLE}"
    )]
    NotFound,
    /// A file that cannot be used.
    #[error("ONNX Runtime: {} cannot be used: {message}; name libonnxruntime.so of version 1.{} or newer", path.display(), ort::MINOR_VERSION)]
    Unusable {
        /// The path.
        path: PathBuf,
        /// Why.
        message: String,
    },
}

/// The process's environment, loading the library on first use; later calls get the same one.
///
/// # Errors
/// No library is found, or the one that is cannot be used.
pub(crate) fn environment(configured: Option<&Path>) -> Result<&'static Environment, LibraryError> {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    static LOADING: Mutex<()> = Mutex::new(());
    let candidates = candidates(configured, std::env::var_os(LIBRARY_VARIABLE).map(PathBuf::from))?;
    let _loading = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = ENVIRONMENT.get() {
        return Ok(environment);
    }
    let mut first_error = None;
    for path in candidates {
        match load(&path) {
            Ok(environment) => return Ok(ENVIRONMENT.get_or_init(|| environment)),
            // On the system's path a name that is not there is no fault of anybody.
            Err(_) if path.parent() == Some(Path::new("")) => {}
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or(LibraryError::NotFound))
}

/// Places to try, in order.
fn candidates(configured: Option<&Path>, variable: Option<PathBuf>) -> Result<Vec<PathBuf>, LibraryError> {
    let named = configured
        .map(|path| ("[encode] onnxruntime", path.to_owned()))
        .or_else(|| variable.filter(|path| !path.as_os_str().is_empty()).map(|path| (LIBRARY_VARIABLE, path)));
    if let Some((named_by, path)) = named {
        // Absolute, because the loader would take a relative path as one beside the executable.
        let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        return if absolute.is_file() { Ok(vec![absolute]) } else { Err(LibraryError::NotAFile { named_by, path }) };
    }
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let beside = beside.into_iter().flat_map(|dir| FILE_NAMES.map(|name| dir.join(name))).filter(|path| path.is_file());
    Ok(beside.chain(FILE_NAMES.map(PathBuf::from)).collect())
}

/// Loads one library. A file that is not what it says (no interface behind a new version number) makes
/// `ort` panic; that becomes an error too, because a wrong path in a configuration is no fault of ours.
fn load(path: &Path) -> Result<Environment, LibraryError> {
    std::panic::catch_unwind(|| try_load(path))
        .unwrap_or_else(|_| Err(unusable(path, &format!("it does not have the interface of version 1.{}", ort::MINOR_VERSION))))
}

/// `init_from` compares the library's version with the one the interface needs.
fn try_load(path: &Path) -> Result<Environment, LibraryError> {
    let builder = ort::init_from(path).map_err(|error| match error {
        ort::LoadDynamicError::BadVersion { version_str, .. } => unusable(path, &format!("it is version {version_str}, which is too old")),
        ort::LoadDynamicError::MissingApi { .. } => unusable(path, "it is not ONNX Runtime (no OrtGetApiBase in it)"),
        ort::LoadDynamicError::Dlopen { error, .. } => unusable(path, &error.to_string()),
        other => unusable(path, &other.to_string()),
    })?;
    builder.with_name("recsae").with_telemetry(false).build().map_err(|error| unusable(path, &error.to_string()))
}

fn unusable(path: &Path, message: &str) -> LibraryError {
    LibraryError::Unusable { path: path.to_owned(), message: one_line(message) }
}

/// Messages of the loader may span lines; one fault is one line.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_place_is_the_only_one_tried_and_the_configuration_comes_first() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        assert_eq!(candidates(Some(&path), Some("/nowhere".into())), Ok(vec![path.clone()]));
        assert_eq!(candidates(None, Some(path.clone())), Ok(vec![path]));
        let error = candidates(None, Some("/nowhere/lib.so".into())).unwrap_err();
        assert!(error.to_string().contains("ORT_DYLIB_PATH names /nowhere/lib.so, which is not a file"), "{error}");
        assert!(candidates(None, Some(PathBuf::new())).unwrap().contains(&PathBuf::from("libonnxruntime.so")));
    }
}
