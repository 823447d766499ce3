"""CondenseNet (v1) and CondenseNetV2."""
