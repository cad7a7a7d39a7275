"""haps_search: joint search over which LLM answers a question and with which LoRA weights."""

__version__ = "0.1.0"
