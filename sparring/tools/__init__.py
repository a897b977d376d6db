"""What they touch: answer checking now; sandbox and repository editing later."""
