//! The listeners' rules: names of the contract, errors as JSON, nothing changes without the token.
