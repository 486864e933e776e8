"""Getting started and staying healthy: settings, hosts, doctor."""
