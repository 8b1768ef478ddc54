"""The command line, `captum-sgcampp`: explains photographs with a pretrained network. Needs the extra `demo`."""
