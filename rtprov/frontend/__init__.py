"""Service B, the front end: accepts provisioning tasks over HTTP and returns their status."""
