//! Calls and answers.
