//! Support of the user stories of HeliosDB: `kubectl` and `helm` as users have them, a load generator in a
//! pod, and a table of figures. It knows nothing of the node's or the operator's code.

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
