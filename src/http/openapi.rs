//! `/api/v1/openapi.json`: what there is, for people and generators of clients.

use axum::Json;
use serde_json::{Value, json};

/// The document.
pub(super) async fn document() -> Json<Value> {
    Json(openapi())
}

/// OpenAPI 3.1 of the API listener.
#[must_use]
pub fn openapi() -> Value {
    let time = || json!({"type": "string", "format": "date-time"});
    let text = || json!({"type": "string"});
    let query = |name: &str, what: &str| json!({"name": name, "in": "query", "description": what, "schema": text()});
    let list = |what: &str, item: &str| answer(what, json!({"type": "array", "items": {"$ref": format!("#/components/schemas/{item}")}}));
    let acts = |what: &str| {
        let parameters = json!([{"name": "id", "in": "path", "required": true, "schema": {"type": "integer"}}]);
        json!({"post": {"summary": what, "security": [{"token": []}], "parameters": parameters,
            "requestBody": body("Action"), "responses": answer("The alert afterwards", json!({"$ref": "#/components/schemas/Alert"}))}})
    };
    json!({
        "openapi": "3.1.0",
        "info": {"title": "recsae-monitor", "version": env!("CARGO_PKG_VERSION"), "description": "What a recommender has started to think: live, named, with evidence."},
        "paths": {
            "/api/v1/status": {"get": {"summary": "Version, readiness, models, partitions", "responses": answer("Status", json!({"type": "object"}))}},
            "/api/v1/concepts": {"get": {"summary": "Streams by evidence", "responses": list("Streams", "Concept"), "parameters": [
                query("segment", "Only this segment"), query("model_version", "Only this model version"),
                query("state", "ok, warn, alert, recovered or no_verdict"), query("limit", "At most this many, 1000 unless asked")]}},
            "/api/v1/concepts/{stream}": {"get": {"summary": "One stream in all segments, with the rates of the last windows",
                "parameters": [{"name": "stream", "in": "path", "required": true, "schema": text(), "example": "latent:123"}],
                "responses": list("The stream by segment", "Concept")}},
            "/api/v1/windows": {"get": {"summary": "Judged windows, newest first", "responses": list("Windows", "Window"), "parameters": [
                query("from", "RFC 3339 or ms since 1970"), query("to", "RFC 3339 or ms since 1970"), query("segment", "Only this segment"),
                query("model_version", "Only this model version"), query("limit", "At most this many, 1000 unless asked")]}},
            "/api/v1/alerts": {"get": {"summary": "Firing alerts and the latest others, newest first", "responses": list("Alerts", "Alert")}},
            "/api/v1/alerts/{id}": {"get": {"summary": "One alert with what explains it: examples, carriers, what is shown with it",
                "parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": "integer"}}],
                "responses": answer("The alert", json!({"$ref": "#/components/schemas/AlertDetail"}))}},
            "/api/v1/alerts/{id}/acknowledge": acts("Somebody is looking at it"),
            "/api/v1/alerts/{id}/accept": acts("The new level is the level from now on"),
            "/api/v1/alerts/{id}/mute": acts("Tell nobody until the given time"),
            "/api/v1/alerts/test": {"post": {"summary": "Show one marked test alert through the metrics route", "security": [{"token": []}],
                "requestBody": body("Test"), "responses": answer("Until when", json!({"type": "object"}))}},
            "/api/v1/references": {"post": {"summary": "Fit a reference to the judged windows and keep it", "security": [{"token": []}],
                "requestBody": body("Build"), "responses": answer("What it was made of", json!({"type": "object"}))}},
            "/api/v1/references/{name}/approve": {"post": {"summary": "Let a reference be used", "security": [{"token": []}],
                "parameters": [{"name": "name", "in": "path", "required": true, "schema": text()}],
                "requestBody": body("Action"), "responses": answer("Its name", json!({"type": "object"}))}},
            "/api/v1/reload": {"post": {"summary": "Read configuration and bundles again, as SIGHUP does: what is not sound changes nothing",
                "security": [{"token": []}], "requestBody": body("Action"), "responses": answer("That they are taken up", json!({"type": "object"}))}},
            "/api/v1/openapi.json": {"get": {"summary": "This document", "responses": answer("OpenAPI", json!({"type": "object"}))}}
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": object(&["error"], json!({"error": object(&["kind", "message"], json!({"kind": text(), "message": text()}))})),
                "Action": object(&["who", "why"], json!({"who": text(), "why": text(), "until": time()})),
                "Build": object(&["name"], json!({"name": text(), "model_version": text(), "from": {"type": "integer"}, "to": {"type": "integer"},
                    "exclude": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}}})),
                "Test": object(&["who", "minutes"], json!({"who": text(), "why": text(), "minutes": {"type": "integer"}})),
                "Concept": with(numbers(&["stream", "concept", "verification", "model_version", "segment", "state"],
                    &["rate", "expected_rate", "ratio", "ratio_low", "ratio_high", "mde_ratio", "evidence_log", "threshold_log"]),
                    json!({"family": {"type": ["integer", "null"], "description": "Family of the latent"}})),
                "Window": with(numbers(&["window_start", "window_end", "model_version", "segment", "verdict"],
                    &["records", "entities", "rejected", "fvu", "cosine", "norm_ratio", "l0"]),
                    json!({"why": {"type": ["string", "null"], "description": "Why there is no verdict"},
                        "offsets": {"type": "array", "items": {"$ref": "#/components/schemas/Offsets"}}})),
                "Offsets": object(&["topic", "partition", "from", "to"], json!({"topic": text(), "partition": {"type": "integer"},
                    "from": {"type": "integer"}, "to": {"type": "integer", "description": "One past the last"}})),
                "Done": object(&["action", "who", "why", "at"], json!({"action": text(), "who": text(), "why": text(), "at": time(),
                    "until": {"type": ["string", "null"], "format": "date-time"}})),
                "Moved": object(&["stream", "ratio", "same_family"],
                    json!({"stream": text(), "ratio": {"type": "number"}, "same_family": {"type": "boolean"}})),
                "AlertDetail": {"allOf": [{"$ref": "#/components/schemas/Alert"}, object(&["names"],
                    json!({"explanation": {"type": ["object", "null"]}, "names": {"type": "object", "additionalProperties": text()}}))]},
                "Alert": with(numbers(&["state", "model_version", "segment", "stream", "concept", "verification", "direction", "began", "began_low",
                    "began_high", "alerted_at", "window_start", "window_end", "reference"],
                    &["id", "ratio", "ratio_low", "ratio_high", "evidence_log", "threshold_log", "exposure", "mde_ratio", "crossings",
                        "rate_ratio", "rate_low", "rate_high"]),
                    json!({"ended": {"type": ["string", "null"], "format": "date-time"},
                        "part_of": {"type": ["string", "null"], "description": "The larger alert it is told with: family:N or dense"},
                        "moved_with": {"type": "array", "items": {"$ref": "#/components/schemas/Moved"}},
                        "actions": {"type": "array", "items": {"$ref": "#/components/schemas/Done"}}}))
            }
        }
    })
}

fn answer(what: &str, schema: Value) -> Value {
    let content = |schema: Value| json!({"application/json": {"schema": schema}});
    json!({"200": {"description": what, "content": content(schema)},
        "default": {"description": "An error", "content": content(json!({"$ref": "#/components/schemas/Error"}))}})
}

fn body(schema: &str) -> Value {
    json!({"required": true, "content": {"application/json": {"schema": {"$ref": format!("#/components/schemas/{schema}")}}}})
}

fn object(required: &[&str], properties: Value) -> Value {
    json!({"type": "object", "required": required, "properties": properties})
}

/// An object with more properties, which need not be there.
fn with(mut object: Value, more: Value) -> Value {
    if let (Some(Value::Object(properties)), Value::Object(more)) = (object.get_mut("properties"), more) {
        properties.extend(more);
    }
    object
}

/// An object of texts that are always there and numbers that may be null.
fn numbers(texts: &[&str], numbers: &[&str]) -> Value {
    let texts_of = texts.iter().map(|name| ((*name).to_owned(), json!({"type": "string"})));
    let numbers_of = numbers.iter().map(|name| ((*name).to_owned(), json!({"type": ["number", "null"]})));
    object(texts, Value::Object(texts_of.chain(numbers_of).collect()))
}
