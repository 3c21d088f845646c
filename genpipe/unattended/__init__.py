"""What a project needs to be retrained with nobody there: a clone that belongs to the machine, reasons, and stores."""
