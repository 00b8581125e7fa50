//! What `make setup` fetched, for commands that need no configuration: the demo runs without any variable set.

use std::path::{Path, PathBuf};

/// The newest ONNX Runtime in the set-up's cache (`RECSAE_CACHE`, else `~/.cache/recsae-monitor`), if there is one.
#[must_use]
pub(super) fn onnxruntime(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let named = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = named("RECSAE_CACHE").or_else(|| Some(named("HOME")?.join(".cache/recsae-monitor")))?;
    let folders = std::fs::read_dir(cache).ok()?.flatten().map(|entry| entry.path());
    let versions = folders.filter_map(|folder| Some((version(folder.file_name()?.to_str()?.strip_prefix("onnxruntime-")?)?, folder)));
    let (_, folder) = versions.filter(|(_, folder)| library(folder).is_some()).max()?;
    library(&folder)
}

/// `1.32.0` as numbers, so that 1.9 is older than 1.10.
fn version(text: &str) -> Option<Vec<u32>> {
    text.split('.').map(|part| part.parse().ok()).collect()
}

fn library(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    files
        .filter(|file| file.is_file() && file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libonnxruntime.so")))
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_library_of_the_cache_is_found_and_none_is_no_fault() {
        let home = tempfile::tempdir().unwrap();
        let of = |name: &str| (name == "HOME").then(|| home.path().as_os_str().to_owned());
        assert_eq!(onnxruntime(of), None);
        for version in ["1.9.0", "1.32.0", "1.40.0", "tmp"] {
            let folder = home.path().join(".cache/recsae-monitor").join(format!("onnxruntime-{version}"));
            std::fs::create_dir_all(&folder).unwrap();
            if version != "1.40.0" {
                std::fs::write(folder.join(format!("libonnxruntime.so.{version}")), "x").unwrap();
            }
        }
        assert!(onnxruntime(of).unwrap().ends_with("onnxruntime-1.32.0/libonnxruntime.so.1.32.0"), "1.40.0 was not fetched to its end");
    }
}
