//! What the user stories of HeliosDB are told with: `kubectl` and `helm` as a user has them, a writer as
//! a pod, and a table of figures. Knows nothing of the node's or the operator's code.

pub mod cluster;
pub mod forward;
pub mod heliosctl;
pub mod images;
pub mod kubectl;
pub mod logs;
pub mod nodes;
pub mod operator;
pub mod pods;
pub mod report;
pub mod story;
pub mod table;
pub mod writer;
