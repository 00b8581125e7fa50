//! A command names the store that its configuration names; an instance that keeps another refuses it.
//!
//! Two instances on one machine, or a configuration that leaves `http.listen` at its default: without this, a mute or
//! an accepted reference would land on whoever answers at the address.

use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::http::error::ApiError;
use crate::http::state::HttpState;

/// Where a command says which store it means. Browsers and scripts send none and are answered.
pub(super) const HEADER: HeaderName = HeaderName::from_static("recsae-store");

/// The store at `path`, as both sides write it: without links, absolute, in percent-encoding where it is not printable
/// ASCII. A store that is not there yet is named by its folder.
pub(super) fn name_of(path: &Path) -> Option<HeaderValue> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let in_folder = || Some(absolute.parent()?.canonicalize().ok()?.join(absolute.file_name()?));
    let absolute = absolute.canonicalize().ok().or_else(in_folder).unwrap_or(absolute);
    let byte = |byte: &u8| if (b' '..=b'~').contains(byte) { char::from(*byte).to_string() } else { format!("%{byte:02x}") };
    let text: String = absolute.as_os_str().as_encoded_bytes().iter().map(byte).collect();
    HeaderValue::from_str(&text).ok()
}

/// Refuses a request that means another store.
pub(super) async fn check(State(state): State<Arc<HttpState>>, request: Request, next: Next) -> Response {
    let own = name_of(state.history.path());
    match request.headers().get(HEADER) {
        Some(meant) if Some(meant) != own.as_ref() => {
            let words = |value: Option<&HeaderValue>| value.and_then(|value| value.to_str().ok()).unwrap_or("?").to_owned();
            let message = format!(
                "this instance keeps {}, the command's configuration names {}: give the configuration of this instance, or mend its [http] listen",
                words(own.as_ref()),
                words(Some(meant))
            );
            ApiError::new(StatusCode::CONFLICT, "another_store", message).into_response()
        }
        _ => next.run(request).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_behind_a_link_is_the_same_store() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        // Before it is made, and once it is there.
        assert_eq!(name_of(&link.join("a.db")), name_of(&real.join("a.db")));
        std::fs::write(real.join("a.db"), b"").unwrap();
        std::os::unix::fs::symlink(real.join("a.db"), folder.path().join("b.db")).unwrap();
        assert_eq!(name_of(&folder.path().join("b.db")), name_of(&real.join("a.db")));
        assert_ne!(name_of(&link.join("c.db")), name_of(&real.join("a.db")));
    }
}
