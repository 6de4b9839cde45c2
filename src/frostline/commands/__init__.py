"""What each verb of the command line does; heavy imports wait until a request is known to be right."""
