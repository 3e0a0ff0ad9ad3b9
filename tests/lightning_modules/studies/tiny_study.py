"""The beginning of a study whose members train in seconds."""

TINY = """
base:
  config: [vgg_relu, fast_at, digits, cpu]
  model.net.width: 4
  model.net.hidden: 8
  model.val_images: 20
  model.val_attack.steps: 2
  model.test_images: 20
  model.test_attack.steps: 2
  trainer.limit_train_batches: 5
"""
