"""The commands of the command line, by what they are about. They select and print; knowledge lives in the packages below."""
