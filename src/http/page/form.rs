//! Acting on an alert from its page, without scripts.
//!
//! The token stands in the form and not in a cookie: another site cannot know it, so it cannot have a visitor's
//! browser act (no CSRF), and nothing has to be kept on the server. The browser's password store may keep it.

use maud::{Markup, html};
use serde::Deserialize;

use crate::drift::alert::ActionKind;
use crate::http::actions::ActionBody;
use crate::http::error::ApiError;

/// Ends of a mute to choose from, hours and words.
const MUTES: [(u32, &str); 5] = [(1, "1 hour"), (8, "8 hours"), (24, "1 day"), (72, "3 days"), (168, "1 week")];

/// What a form sends.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Filled {
    action: String,
    who: String,
    why: String,
    token: String,
    #[serde(default)]
    hours: Option<u32>,
}

/// A form that was refused: what was in it but the token, and why.
#[derive(Clone, Debug)]
pub(super) struct Tried {
    who: String,
    why: String,
    /// Why it was refused.
    pub(super) why_not: String,
}

impl Filled {
    /// The token it shows.
    pub(in crate::http) fn token(&self) -> &str {
        &self.token
    }

    /// The action it asks for at `now_ms`.
    ///
    /// # Errors
    /// It is none.
    pub(in crate::http) fn asked(&self, now_ms: i64) -> Result<(ActionKind, ActionBody), ApiError> {
        let until = self.hours.map(|hours| now_ms.saturating_add(i64::from(hours) * 3_600_000));
        let (kind, until) = match self.action.as_str() {
            "acknowledge" => (ActionKind::Acknowledge, None),
            "accept" => (ActionKind::Accept, None),
            "mute" => (ActionKind::Mute, until),
            other => return Err(ApiError::bad_request(format!("expected acknowledge, accept or mute, found {other:?}"))),
        };
        Ok((kind, ActionBody { who: self.who.clone(), why: self.why.clone(), until }))
    }

    /// The form again, with why it was refused.
    pub(super) fn refused(self, error: &ApiError) -> Tried {
        Tried { who: self.who, why: self.why, why_not: error.message.clone() }
    }
}

/// The form of an alert that fires.
pub(super) fn forms(alert: i64, actions_on: bool, tried: Option<&Tried>) -> Markup {
    let (who, why) = tried.map_or(("", ""), |tried| (tried.who.as_str(), tried.why.as_str()));
    html! {
        @if !actions_on {
            p.quiet { "Acting from here is off: put a token into a file and set " code { "[http] token_file" } "." }
        } @else {
            form.act method="post" action={ "/alerts/" (alert) } {
                div.field { label for="who" { "Who" } input #who name="who" required maxlength="200" autocomplete="name" value=(who); }
                div.field { label for="why" { "Why" } textarea #why name="why" required maxlength="2000" rows="2" { (why) } }
                div.field { label for="token" { "Token" } input #token name="token" type="password" required autocomplete="current-password" aria-describedby="token-note"; }
                p.quiet #token-note { "The content of " code { "[http] token_file" } " of this instance. Who and why are kept on the record." }
                div.buttons {
                    button name="action" value="acknowledge" { "Acknowledge" }
                    button name="action" value="accept" { "Accept as the new level" }
                    span.mute { label for="hours" { "Mute for" } " "
                        select #hours name="hours" { @for (hours, words) in MUTES { option value=(hours) selected[hours == 24] { (words) } } } " "
                        button name="action" value="mute" { "Mute" } }
                }
            }
        }
    }
}
