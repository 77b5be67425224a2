"""Flash: from a workstation, over OpenSSH, turn a Jetson that runs JetPack into a running edge."""
