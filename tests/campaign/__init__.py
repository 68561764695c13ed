"""The deterministic campaign: the product in one process, with time, network, broker and crashes in a seed's hand."""
