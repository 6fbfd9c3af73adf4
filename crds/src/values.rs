//! The schema of the values of the chart helios-cluster: the spec of a HeliosCluster, and the values of the chart itself.

use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use crate::HeliosCluster;

/// As `values.schema.json`. Unlike the CRD's it refuses fields that it does not know, so that a misspelt one fails
/// before anything is sent.
///
/// # Errors
/// When the definition cannot be written as JSON, which a test excludes.
pub fn values_schema() -> Result<String, Box<dyn std::error::Error>> {
    let definition = serde_json::to_value(HeliosCluster::crd())?;
    let mut spec =
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone();
    close(&mut spec);
    let mut properties = spec["properties"].as_object().cloned().unwrap_or_default();
    properties.extend(own());
    let schema = json!({
        "$schema": "https://json-schema.org/draft-07/schema#",
        "title": "Values of helios-cluster",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

/// Values of the chart that are not in the spec.
fn own() -> Map<String, Value> {
    let texts = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let own = json!({
        "nameOverride": {"type": "string", "maxLength": 40},
        "labels": texts,
        "annotations": texts,
        "test": {
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "image": {"type": "string", "minLength": 1},
                "command": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            },
        },
        // Helm itself puts this beside the values of a subchart.
        "global": {"type": "object"},
    });
    own.as_object().cloned().unwrap_or_default()
}

/// From the schema of a CRD to one of JSON Schema: no extensions of Kubernetes, no unknown fields.
fn close(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    if fields.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        fields.insert("type".to_owned(), json!(["integer", "string"]));
    }
    fields.retain(|name, _| {
        !name.starts_with("x-kubernetes-") && !["format", "description", "default"].contains(&&**name)
    });
    // An empty text of the defaults stands for "not written", a null for "as the default".
    if fields.remove("nullable") == Some(Value::Bool(true))
        && let Some(Value::String(only)) = fields.get("type").cloned()
    {
        fields.insert("type".to_owned(), json!([only, "null"]));
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(close);
        fields.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    for inner in ["items", "additionalProperties", "not"] {
        if let Some(inner) = fields.get_mut(inner) {
            close(inner);
        }
    }
    for choices in ["anyOf", "allOf", "oneOf"] {
        if let Some(Value::Array(choices)) = fields.get_mut(choices) {
            choices.iter_mut().for_each(close);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_closed_and_without_extensions() {
        let text = values_schema().expect("it is written");
        assert!(!text.contains("x-kubernetes"), "{text}");
        let schema: Value = serde_json::from_str(&text).expect("it is JSON");
        let storage = &schema["properties"]["storage"];
        assert_eq!(storage["additionalProperties"], false);
        assert_eq!(storage["properties"]["retain"]["type"], "boolean");
        assert_eq!(schema["properties"]["replicas"]["type"], "integer");
        assert_eq!(
            schema["properties"]["service"]["properties"]["annotations"]["additionalProperties"]["type"],
            "string"
        );
    }
}
