"""The verbs of ``python -m fairseq_plugins``, one file each."""
