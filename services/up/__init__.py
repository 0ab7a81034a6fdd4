"""What ``junctor up`` does beyond running the services: detection, the demo's registration, its screen."""
