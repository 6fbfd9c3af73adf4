//! The images under test, from the environment variables that scripts/stories.sh sets.

use anyhow::Context;

#[derive(Debug, Clone)]
pub struct Images {
    pub node: String,
    /// Image of the same node under another tag: a version to upgrade to.
    pub node_next: String,
    pub operator: String,
    pub writer: String,
    /// Image of redis-cli with a shell: an application.
    pub client: String,
}

impl Images {
    /// When a variable is not set; the error names the script that sets it.
    pub fn from_environment() -> anyhow::Result<Self> {
        let image = |name: &str| {
            std::env::var(name).with_context(|| {
                format!(
                    "{name} is not set; run scripts/stories.sh, which builds the images and names a cluster"
                )
            })
        };
        Ok(Self {
            node: image("HELIOS_NODE_IMAGE")?,
            node_next: image("HELIOS_NODE_IMAGE_NEXT")?,
            operator: image("HELIOS_OPERATOR_IMAGE")?,
            writer: image("HELIOS_E2E_IMAGE")?,
            client: image("HELIOS_CLIENT_IMAGE")?,
        })
    }
}
