//! JSON payloads: the quick reader and the strict one see the same, base64 vectors among them, or the message is refused.
#![no_main]

use readers::config::settings::RecordSettings;

libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
    let settings = RecordSettings { entity: "user.id".into(), ..RecordSettings::default() };
    if let Some(record) = readers::decodes(&settings, Some(payload), &[]) {
        // A record that is accepted is JSON by a reader that is not ours.
        assert!(serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok());
        assert_eq!(readers::decodes(&settings, Some(payload), &[]).map(|again| again.embedding.len()), Some(record.embedding.len()));
    }
});
