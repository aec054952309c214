"""Safety circuits: which features of a model are about harm, and how they are wired."""
