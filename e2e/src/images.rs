//! The images that a run of the stories is about, from the environment that scripts/stories.sh prepares.

use anyhow::Context;

#[derive(Debug, Clone)]
pub struct Images {
    pub node: String,
    /// The same node under another tag: a version to upgrade to.
    pub node_next: String,
    pub operator: String,
    pub writer: String,
}

impl Images {
    /// # Errors
    /// When one is not set; the message says what sets it.
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
        })
    }
}
