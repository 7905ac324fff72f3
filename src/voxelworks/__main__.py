"""`python -m voxelworks` is the command `voxelworks`."""

from voxelworks.cli import main

if __name__ == "__main__":
    main()
